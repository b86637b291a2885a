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
from aiobs.errors import PlanError

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
    ],
)
def test_bad_gpu_parameters_are_named(kind: str, parameter: str, value: object) -> None:
    with pytest.raises(PlanError, match=f"{kind}: {parameter}"):
        build_fault(kind, {parameter: value})
