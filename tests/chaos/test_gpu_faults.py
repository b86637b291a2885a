"""Faults of fake GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from aiobs import chaos
from aiobs.chaos.fault import build_fault
from aiobs.chaos.operations.gpu import has_fake
from aiobs.errors import FaultError, PlanError

fake = pytest.mark.skipif(not has_fake(), reason="aiobs.device.fake is not in this version")


@pytest.fixture
def gpus(tmp_path: Path) -> Any:
    return import_module("aiobs.device.fake.state").FakeGpus.create(tmp_path, 2)


@pytest.fixture
def program(gpus: Any) -> Iterator[int]:
    """A process that is told of the fake GPUs."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "AIOBS_FAKE_GPU": str(gpus.path)}
    )
    yield process.pid
    process.kill()
    process.wait()


@fake
def test_an_xid_is_reported(gpus: Any, program: int) -> None:
    with chaos.inject("gpu.xid", f"pid:{program}", number=48, gpu=1):
        pass
    row = gpus.state.events[0]
    assert (gpus.state.event_count, row.device, row.type, row.number) == (1, 1, 8, 48)


@fake
def test_a_gpu_is_lost_and_found_again(gpus: Any, program: int) -> None:
    with chaos.inject("gpu.lost", f"pid:{program}"):
        assert [gpus.state.gpus[index].lost for index in (0, 1)] == [1, 0]
    assert gpus.state.gpus[0].lost == 0


@fake
@pytest.mark.parametrize("cause", ["thermal", "power"])
def test_a_throttled_gpu_says_why_and_recovers(gpus: Any, program: int, cause: str) -> None:
    row = gpus.state.gpus[0]
    before = bytes(row)
    with chaos.inject("gpu.throttle", f"pid:{program}", cause=cause, watts=150):
        assert row.clock_sm_mhz == 210
        assert (row.temperature, row.power_limit_mw, row.reasons) == (
            (92, 700_000, 0x40) if cause == "thermal" else (35, 150_000, 4)
        )
    assert bytes(row) == before


@fake
def test_a_gpu_that_is_not_there_is_refused(program: int) -> None:
    with pytest.raises(PlanError, match="numbered from 0"):
        chaos.inject("gpu.lost", f"pid:{program}", gpu=7)


def test_a_process_without_fake_gpus_is_refused(victim: subprocess.Popen[bytes]) -> None:
    with pytest.raises(PlanError, match="AIOBS_FAKE_GPU|no fake GPUs"):
        chaos.inject("gpu.lost", f"pid:{victim.pid}")


@pytest.mark.parametrize(
    ("kind", "parameter", "value"),
    [
        ("gpu.xid", "number", 0),
        ("gpu.lost", "gpu", -1),
        ("gpu.throttle", "cause", "x"),
        ("gpu.throttle", "celsius", 999),
        ("gpu.ecc", "how", "x"),
        ("gpu.ecc", "count", 0),
        ("gpu.power_cap", "watts", 0),
    ],
)
def test_bad_gpu_parameters_are_named(kind: str, parameter: str, value: object) -> None:
    with pytest.raises(PlanError, match=f"{kind}: {parameter}"):
        build_fault(kind, {parameter: value})


@fake
@pytest.mark.parametrize(("how", "number"), [("plain", 48), ("contained", 94), ("uncontained", 95)])
def test_memory_errors_are_counted_and_reported(gpus: Any, program: int, how: str, number: int) -> None:
    gpus.gpus[1].set_field(4, 2)
    before = bytes(gpus.state.gpus[1])
    with chaos.inject("gpu.ecc", f"pid:{program}", gpu=1, how=how, count=3, lost=how == "uncontained"):
        row = gpus.state.gpus[1]
        counted = {it.number: it.value for it in row.fields[: row.field_count]}
        assert counted == {4: 5, 6: 3}
        assert row.lost == (how == "uncontained")
    assert [(it.device, it.type, it.number) for it in gpus.state.events[:2]] == [(1, 2, 0), (1, 8, number)]
    assert bytes(gpus.state.gpus[1]) == before


@pytest.fixture
def library(gpus: Any) -> Any:
    """The fake NVML beside the state file, as ``aiobs.device.fake`` compiles it."""
    pytest.importorskip("pynvml", reason="needs pip install nvidia-ml-py")
    import_module("aiobs.device.fake.build").build(gpus.path.parent)
    return gpus


@fake
def test_a_power_cap_slows_a_gpu_until_the_end(library: Any, program: int) -> None:
    gpu = library.gpus[1]
    gpu.power_watts = 600
    with chaos.inject("gpu.power_cap", f"pid:{program}", gpu=1, watts=300, effect_s=20) as injection:
        assert "300 W" in injection.evidence[0]
        assert gpu.power_watts == 300
    assert gpu.power_watts == 600
    assert library.state.gpus[1].power_limit_mw == 700_000


@fake
def test_a_power_limit_that_somebody_else_has_set_since_stays(library: Any, program: int) -> None:
    with chaos.inject("gpu.power_cap", f"pid:{program}", watts=300, effect_s=20):
        library.gpus[0].set(power_limit_mw=450_000)
    assert library.state.gpus[0].power_limit_mw == 450_000


@fake
def test_a_driver_that_refuses_is_told_and_nothing_is_left(library: Any, program: int) -> None:
    library.fail("nvmlDeviceSetPowerManagementLimit", 4)
    with pytest.raises(FaultError, match="no permission: become root"):
        chaos.inject("gpu.power_cap", f"pid:{program}", watts=300)
    assert library.state.gpus[0].power_limit_mw == 700_000


@fake
@pytest.mark.parametrize(
    ("gpu", "watts", "says"), [(0, 100, "200 to 700"), (0, 700, "is 700 W already"), (9, 300, "numbered from 0")]
)
def test_a_power_cap_that_cannot_be_is_refused(library: Any, program: int, gpu: int, watts: float, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        chaos.inject("gpu.power_cap", f"pid:{program}", gpu=gpu, watts=watts)


def test_without_a_driver_a_power_cap_is_refused(victim: subprocess.Popen[bytes]) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a real GPU, whose settings stay as they are")
    with pytest.raises(PlanError, match=r"libnvidia-ml|nvidia-ml-py|driver"):
        chaos.inject("gpu.power_cap", f"pid:{victim.pid}")


def test_without_a_gpu_its_memory_cannot_be_taken_and_it_is_said_why(victim: subprocess.Popen[bytes]) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(PlanError, match="has no GPU .*point.oom"):
        chaos.inject("gpu.memory_ballast", f"pid:{victim.pid}")
