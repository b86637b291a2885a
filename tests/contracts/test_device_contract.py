"""What every vendor's devices owe to whoever reads them: the fake NVIDIA GPUs, the stand-ins, a real GPU if any."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aiobs import names
from aiobs.device import amd, intel, nvml
from aiobs.device.absence import Absence
from aiobs.device.base import FAST, DeviceLibrary
from aiobs.device.fake.state import FakeGpus
from aiobs.device.quantities import COUNTER, ENERGY, GAUGE, QUANTITIES, UPDOWN
from aiobs.errors import DeviceLostError

from ..device.stand_ins import NOT_FOUND, Amd, IntelFiles, fake_is_loaded, loaded_fake  # noqa: TID252 - one stand-in for both


@dataclass
class Subject:
    """A library to judge: how it is opened, and how its first device is made to vanish (None: it cannot be)."""

    open: Callable[[], DeviceLibrary | Absence]
    lose: Callable[[], None] | None

    def library(self) -> DeviceLibrary:
        opened = self.open()
        assert not isinstance(opened, Absence), opened
        return opened


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    pytest.importorskip("pynvml")
    loaded_fake()
    gpus = FakeGpus.create(tmp_path, 2)
    gpus.gpus[0].set(utilization=60, memory_used=9 << 30)
    gpus.gpus[0].set_field(197, 10**9)
    gpus.gpus[0].set_field(3, 1)
    gpus.gpus[1].add_instance()
    monkeypatch.setenv("AIOBS_FAKE_GPU", str(gpus.path))
    return Subject(nvml.open_library, gpus.gpus[0].lose)


def amd_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    module = Amd()
    monkeypatch.setitem(sys.modules, "amdsmi", module)
    return Subject(lambda: amd.open_library(tmp_path), lambda: module.gpus[0].failing.update({"": NOT_FOUND}))


def intel_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    files = IntelFiles(tmp_path)
    return Subject(lambda: intel.open_library(tmp_path), files.vanish)


def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    if fake_is_loaded():
        pytest.skip("a fake library is loaded in this process: run this one alone (-m gpu)")
    opened = nvml.open_library()
    if isinstance(opened, Absence):
        pytest.skip(f"no NVIDIA GPU: {opened.reason}")
    opened.close()
    return Subject(nvml.open_library, None)


# The real one first: once a fake is loaded, this process has no other NVML.
SUBJECTS = [pytest.param(real, marks=pytest.mark.gpu), fake, amd_stand_in, intel_stand_in]


@pytest.fixture(params=SUBJECTS, ids=lambda make: make.__name__)
def subject(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    return request.param(tmp_path, monkeypatch)  # type: ignore[no-any-return]


@pytest.fixture
def library(subject: Subject) -> Iterator[DeviceLibrary]:
    opened = subject.library()
    yield opened
    opened.close()


def test_identities_are_unique_and_stay(subject: Subject, library: DeviceLibrary) -> None:
    first = [device.identity for device in library.devices()]
    assert first
    assert len({identity.id for identity in first}) == len(first)
    assert [device.identity for device in library.devices()] == first
    library.close()
    again = subject.library()
    assert [device.identity for device in again.devices()] == first
    again.close()
    whole = {identity.id for identity in first if not identity.parent}
    for identity in first:
        assert identity.id.startswith("MIG-" if identity.parent else "GPU-")
        assert identity.vendor == library.vendor and identity.name and identity.memory_bytes >= 0
        assert identity.parent in whole | {""}


def test_readings_are_known_quantities_of_their_group_within_range(library: DeviceLibrary) -> None:
    for device in library.devices():
        assert FAST in device.groups
        for group, period_s in device.groups.items():
            assert period_s > 0
            before = time.monotonic_ns()
            reading = device.read(group)
            assert reading.group == group
            assert before <= reading.time_ns <= time.monotonic_ns()
            assert 0 <= reading.duration_ns <= time.monotonic_ns() - before
            for key, value in reading.values.items():
                quantity = QUANTITIES[key]
                low, high = quantity.limits
                assert quantity.group == group, key
                assert isinstance(value, (int, float))
                assert value >= low and (high is None or value <= high), (key, value)


def test_a_whole_device_tells_its_energy_and_it_never_goes_back(library: DeviceLibrary) -> None:
    for device in library.devices():
        if device.identity.parent:
            continue
        seen = []
        for _ in range(5):
            seen.append(device.read(FAST).values[ENERGY])
            time.sleep(0.005)
        assert seen == sorted(seen)


def test_counters_are_cumulative(library: DeviceLibrary) -> None:
    counters = {key for key, quantity in QUANTITIES.items() if quantity.kind == COUNTER}
    for device in library.devices():
        for group in device.groups:
            first, second = device.read(group).values, device.read(group).values
            for key in counters & set(first):
                assert second[key] >= first[key], key


def test_a_reading_is_kept_while_the_next_one_is_taken(library: DeviceLibrary) -> None:
    device = library.devices()[0]
    first = device.read(FAST)
    copy = dict(first.values)
    device.read(FAST)
    assert dict(first.values) == copy


def test_a_device_that_vanishes_is_lost(subject: Subject, library: DeviceLibrary) -> None:
    if subject.lose is None:
        pytest.skip("this device is not to be lost")
    device = library.devices()[0]
    device.read(FAST)
    subject.lose()
    for _ in range(2):
        with pytest.raises(DeviceLostError) as caught:
            device.read(FAST)
        assert caught.value.device == device.identity.id and device.identity.id in str(caught.value)


def test_processes_are_pids_and_bytes(library: DeviceLibrary) -> None:
    for device in library.devices():
        assert all(pid > 0 and size >= 0 for pid, size in device.processes().items())


def test_waiting_for_events_keeps_to_its_time(library: DeviceLibrary) -> None:
    library.devices()
    library.wait_events(0)
    begin = time.monotonic()
    assert library.wait_events(0.05) == []
    assert 0.04 < time.monotonic() - begin < 2


def test_an_unknown_group_is_refused(library: DeviceLibrary) -> None:
    with pytest.raises(KeyError, match="no-such"):
        library.devices()[0].read("no-such")


def test_closing_again_is_harmless(library: DeviceLibrary) -> None:
    library.close()
    library.close()


def test_the_table_of_quantities_is_whole() -> None:
    """Keys are unique, rows of one metric agree and differ in their attributes, names are ours or the conventions'."""
    known = {value for value in vars(names).values() if isinstance(value, str)}
    by_metric: dict[str, list[str]] = {}
    for key, quantity in QUANTITIES.items():
        assert key == quantity.key and key.startswith(quantity.metric)
        assert quantity.metric in known and quantity.kind in (GAUGE, COUNTER, UPDOWN)
        by_metric.setdefault(quantity.metric, []).append(key)
    for keys in by_metric.values():
        rows = [QUANTITIES[key] for key in keys]
        assert len({(row.kind, row.unit, row.description, row.typed) for row in rows}) == 1
        assert len({row.attributes for row in rows}) == len(rows)


def test_every_quantity_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text("utf-8")
    assert not [quantity.metric for quantity in QUANTITIES.values() if f"`{quantity.metric}`" not in page]
