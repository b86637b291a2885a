"""Finding NVIDIA GPUs, and what is said where they cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiobs import guard
from aiobs.device import find
from aiobs.device.absence import Absence
from aiobs.device.base import FAST
from aiobs.device.fake import with_library
from aiobs.device.fake.build import build
from aiobs.device.fake.state import FakeGpus
from aiobs.device.nvml import NvmlLibrary, open_library
from aiobs.errors import DeviceLostError, NotEnabledError


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The root of a system without hardware."""
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def equipped(bare: Path) -> Path:
    """The root of a system whose kernel has NVIDIA's driver loaded."""
    (bare / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    (bare / "proc/driver/nvidia/version").write_text("NVRM version: ...")
    return bare


def test_identities(gpus: FakeGpus, library: NvmlLibrary) -> None:
    first, second = (device.identity for device in library.devices())
    assert (first.id, first.index, first.vendor) == (gpus.gpus[0].uuid, 0, "nvidia")
    assert second.id != first.id and second.index == 1
    assert first.fake and first.name.startswith("FAKE GPU")
    assert first.pci == "0000:01:00.0" and first.driver == "999.99" and first.memory_bytes == 80 << 30


def test_instances_follow_their_gpu(gpus: FakeGpus, library: NvmlLibrary) -> None:
    one = gpus.gpus[0].add_instance(10 << 30)
    two = gpus.gpus[0].add_instance(20 << 30)
    found = library.devices()
    assert [device.identity.id for device in found] == [gpus.gpus[0].uuid, gpus.gpus[1].uuid, one.uuid, two.uuid]
    assert {device.identity.parent for device in found[2:]} == {gpus.gpus[0].uuid}
    assert [device.identity.memory_bytes for device in found[2:]] == [10 << 30, 20 << 30]
    one.set(memory_used=5 << 30)
    assert list(found[2].groups) == [FAST]
    values = found[2].read(FAST).values
    assert values["hw.gpu.memory.usage"] == 5 << 30 and "hw.energy" not in values
    assert "hw.gpu.utilization" not in found[0].read(FAST).values  # a divided GPU has none
    one.remove()
    with pytest.raises(DeviceLostError, match="no longer divided"):
        found[2].read(FAST)
    assert [device.identity.id for device in library.devices()[2:]] == [two.uuid]


@pytest.mark.parametrize(
    ("code", "says", "remedy"),
    [(9, "not loaded", "modprobe"), (18, "different versions", "reboot"), (4, "no permission", "/dev/nvidia")],
)
def test_a_driver_that_refuses_is_said_once_with_a_remedy(
    gpus: FakeGpus, equipped: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: int, says: str, remedy: str
) -> None:  # fmt: skip
    monkeypatch.setattr(guard, "_said", set())
    gpus.refuse_init(code)
    for _ in range(2):
        found = find.open_libraries(equipped)
        assert not found.libraries
        (absent,) = [absence for absence in found.absent if absence.vendor == "nvidia"]
        assert says in absent.reason and remedy in absent.remedy
    assert [record.getMessage() for record in caplog.records if says in record.getMessage()] == [
        f"aiobs: nvidia GPUs cannot be read: {absent.reason}; {absent.remedy}"
    ]


def test_no_driver_is_no_news(gpus: FakeGpus, bare: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.delenv("AIOBS_FAKE_GPU")
    found = find.open_libraries(bare)
    assert not found.libraries and {absence.vendor for absence in found.absent} == {"nvidia", "amd", "intel"}
    assert not caplog.records


def test_a_container_without_gpus_is_said_where_the_host_has_some(gpus: FakeGpus, equipped: Path, bare: Path) -> None:
    gpus.state.gpu_count = 0
    absent = open_library(equipped)
    assert isinstance(absent, Absence) and absent.worth_saying and "--gpus" in absent.remedy
    (bare / "empty").mkdir()
    absent = open_library(bare / "empty")
    assert isinstance(absent, Absence) and not absent.worth_saying


def test_without_the_package_the_command_is_named(equipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    absent = open_library(equipped)
    assert isinstance(absent, Absence) and absent.worth_saying
    assert "pip install 'aiobs-sdk[gpu]'" in absent.reason
    from aiobs.device.nvml import require

    with pytest.raises(NotEnabledError, match=r"aiobs-sdk\[gpu\]"):
        require()


def test_a_gpu_that_is_lost_already_is_left_out_and_said(gpus: FakeGpus) -> None:
    gpus.gpus[0].lose()
    library = open_library()
    assert isinstance(library, NvmlLibrary)
    assert [device.identity.id for device in library.devices()] == [gpus.gpus[1].uuid]
    assert any("GPU 0 cannot be read" in problem for problem in library.problems)
    library.close()


def test_closing_twice_shuts_down_once(gpus: FakeGpus) -> None:
    library = open_library()
    assert isinstance(library, NvmlLibrary)
    library.wait_events(0)
    library.close()
    library.close()
    calls = gpus.calls()
    assert (calls["nvmlShutdown"], calls["nvmlEventSetFree"]) == (1, 1)


OLD_DRIVER = """
from aiobs.device.nvml import open_library
library = open_library()
(device,) = library.devices()
print(sorted(device.read("fast").values))
print(device.read("slow").values, library.wait_events(0))
library.close()
"""


def test_a_driver_without_the_newer_functions_is_read_with_the_older(tmp_path: Path) -> None:
    """The real dynamic loader, in a process of its own: the symbols are not there at all."""
    build(tmp_path, without=(
        "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetGpuFabricInfoV", "nvmlDeviceGetFieldValues", "nvmlEventSetWait_v2", "nvmlEventSetCreate",
    ))  # fmt: skip
    state = FakeGpus.create(tmp_path, 1)
    environment = with_library({**os.environ, "AIOBS_FAKE_GPU": str(state.path)})
    done = subprocess.run(
        [sys.executable, "-c", OLD_DRIVER], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "hw.gpu.memory.usage" in first and "aiobs.gpu.throttle.reasons" in first and "hw.temperature/core" in first
    assert second == "{} []"
