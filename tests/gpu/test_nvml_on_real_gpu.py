"""What only a real NVIDIA GPU can show; elsewhere skipped. Run it alone: ``pytest -m gpu``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs.device import quantities as q
from aiobs.device.absence import Absence
from aiobs.device.base import FAST, SLOW, Device
from aiobs.device.nvml import NvmlLibrary, open_library

pytestmark = pytest.mark.gpu


@pytest.fixture
def library() -> Iterator[NvmlLibrary]:
    """NVML over the real GPUs."""
    pytest.importorskip("pynvml")
    opened = open_library()
    if isinstance(opened, Absence):
        pytest.skip(f"no NVIDIA GPU: {opened.reason}")
    if opened.devices()[0].identity.fake:
        opened.close()
        pytest.skip("a fake library is loaded in this process: run  pytest -m gpu")
    yield opened
    opened.close()


@pytest.fixture
def device(library: NvmlLibrary) -> Device:
    """The first one."""
    return library.devices()[0]


def test_the_energy_counter_agrees_with_the_power(device: Device) -> None:
    """Within a tenth over three seconds of whatever the GPU is doing."""
    first = device.read(FAST)
    watts = []
    while time.monotonic_ns() - first.time_ns < 3e9:
        watts.append(device.read(FAST).values[q.POWER])
        time.sleep(0.1)
    last = device.read(FAST)
    joules = last.values[q.ENERGY] - first.values[q.ENERGY]
    expected = sum(watts) / len(watts) * (last.time_ns - first.time_ns) / 1e9
    assert joules == pytest.approx(expected, rel=0.1)


def test_work_shows_in_utilisation_memory_and_processes(device: Device) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available() or str(torch.cuda.get_device_properties(0).uuid) not in device.identity.id:
        pytest.skip("PyTorch does not see this GPU")
    before = device.read(FAST).values
    held = torch.ones(1 << 30, dtype=torch.uint8, device="cuda:0")
    factor = torch.ones(4096, 4096, device="cuda:0")
    busiest, until = 0.0, time.monotonic() + 3
    while time.monotonic() < until:
        for _ in range(20):
            factor = factor @ factor
        torch.cuda.synchronize()
        busiest = max(busiest, device.read(FAST).values[q.UTILIZATION])
    after = device.read(FAST).values
    assert busiest > 0.5
    assert after[q.MEMORY_USED] - before[q.MEMORY_USED] >= held.nbytes
    listed = device.processes()
    # In a container with process ids of its own the driver lists those of the host.
    assert os.getpid() in listed or Path("/.dockerenv").exists() or listed


def test_reading_is_cheap(device: Device) -> None:
    """A full reading of both groups takes milliseconds, not tens of them."""
    for group in (FAST, SLOW):
        device.read(group)
        shortest = min(device.read(group).duration_ns for _ in range(10))
        print(f"{device.identity.name}, {group}: {shortest / 1e3:.0f} us")
        assert shortest < 20e6


def test_events_can_be_listened_to(library: NvmlLibrary) -> None:
    assert library.wait_events(0.1) == []
    for problem in library.problems:
        print(problem)
