"""What is read from NVIDIA GPUs, through the real pynvml."""

from __future__ import annotations

import struct
import sys
import time

import pytest

from aiobs.device import quantities as q
from aiobs.device.base import FAST, SLOW
from aiobs.device.fake.gpu import ALL_LINKS, NOT_SUPPORTED
from aiobs.device.fake.state import FakeGpus
from aiobs.device.nvml import NvmlLibrary
from aiobs.errors import DeviceError, DeviceLostError


def test_every_reading_of_the_fast_group_comes_through(gpus: FakeGpus, library: NvmlLibrary) -> None:
    gpu = gpus.gpus[0]
    gpu.set(utilization=87, memory_utilization=41, memory_used=3 << 30, temperature=64, clock_sm_mhz=1980, reasons=0x4)
    gpu.set_energy(1_234.5, power_watts=0)
    gpu.set_field(82, 71)
    gpu.set_field(74, 2_500_000_000)
    gpu.set_field(270, 1_000_000)
    gpu.set(performance_state=2)
    values = library.devices()[0].read(FAST).values
    assert values[q.UTILIZATION] == 0.87
    assert values[q.MEMORY_BANDWIDTH] == 0.41
    assert values[q.MEMORY_USED] == 3 << 30
    assert values[q.MEMORY_LIMIT] == 80 << 30
    assert values[q.MEMORY_UTILIZATION] == 3 / 80
    assert values[q.ENERGY] == pytest.approx(1234.5)
    assert values[q.POWER] == 0
    assert values[q.TEMPERATURE] == 64
    assert values[q.TEMPERATURE_MEMORY] == 71
    assert values[q.CLOCK_SM] == 1.98e9
    assert values[q.CLOCK_MEMORY] == 1.593e9
    assert values[q.PERFORMANCE_STATE] == 2
    assert values[q.THROTTLE_REASONS] == 4
    assert values[q.THROTTLED["power_cap"]] == pytest.approx(2.5)
    assert values[q.THROTTLED["hw_thermal"]] == pytest.approx(1e-3)


def test_every_reading_of_the_slow_group_comes_through(gpus: FakeGpus, library: NvmlLibrary) -> None:
    gpu = gpus.gpus[0]
    for number, value in ((3, 11), (4, 2), (29, 1), (30, 3), (31, 1), (142, 4), (143, 5), (144, 1), (145, 0), (94, 7), (197, 10**12), (198, 2 * 10**12), (230, 1)):  # fmt: skip
        gpu.set_field(number, value)
    gpu.set_field(138, 5, scope=ALL_LINKS)
    gpu.set_field(139, 6, scope=ALL_LINKS)
    gpu.set_field(161, 8, scope=ALL_LINKS)
    for link in range(4):
        gpu.set_field(165, int(link != 2), scope=link)
    gpu.set(fabric_state=3)
    values = library.devices()[0].read(SLOW).values
    assert values == {
        q.ECC_CORRECTED: 11, q.ECC_UNCORRECTED: 2, q.RETIRED_CORRECTABLE: 1, q.RETIRED_UNCORRECTABLE: 3,
        q.RETIREMENT_PENDING: 1, q.REMAPPED_CORRECTABLE: 4, q.REMAPPED_UNCORRECTABLE: 5, q.REMAP_PENDING: 1,
        q.REMAP_FAILED: 0, q.PCIE_REPLAYS: 7, q.PCIE_TRANSMIT: 10**12, q.PCIE_RECEIVE: 2 * 10**12,
        q.NVLINK_TRANSMIT: 5 * 1024, q.NVLINK_RECEIVE: 6 * 1024, q.NVLINK_REPLAY: 8, q.NVLINK_ACTIVE: 3,
        q.FABRIC_STATE: 3, q.FABRIC_STATUS: 0, q.RECOVERY_ACTION: 1,
    }  # fmt: skip


def test_energy_is_power_times_time_exactly(gpus: FakeGpus, library: NvmlLibrary) -> None:
    device = library.devices()[0]
    gpus.gpus[0].power_watts = 400
    first = device.read(FAST)
    time.sleep(0.1)
    gpus.gpus[0].power_watts = 200
    changed = time.monotonic_ns()
    time.sleep(0.1)
    last = device.read(FAST)
    expected = 400 * (changed - first.time_ns) / 1e9 + 200 * (last.time_ns - changed) / 1e9
    # The change, and each counter's millijoule, come at some point of the calls around them.
    assert last.values[q.ENERGY] - first.values[q.ENERGY] == pytest.approx(expected, rel=0.01)


def test_a_reading_of_energy_follows_the_wave(gpus: FakeGpus, library: NvmlLibrary) -> None:
    device = library.devices()[0]
    gpus.gpus[0].set(utilization=90)
    gpus.gpus[0].wave(300, period_s=0.2)
    before, begin = gpus.gpus[0].energy_joules, time.monotonic()
    seen = []
    while time.monotonic() - begin < 0.2:
        seen.append(device.read(FAST).values)
        time.sleep(0.01)
    took = time.monotonic() - begin
    gained = gpus.gpus[0].energy_joules - before
    assert gained == pytest.approx((70 + 150) * took, rel=0.15)  # whole turns average half the wave
    assert max(values[q.UTILIZATION] for values in seen) > 0.8
    assert min(values[q.UTILIZATION] for values in seen) < 0.2
    assert max(values[q.POWER] for values in seen) > 300


def test_counters_are_passed_on_as_they_are(gpus: FakeGpus, library: NvmlLibrary) -> None:
    device = library.devices()[0]
    gpus.gpus[0].set_energy(500, power_watts=0)
    gpus.gpus[0].set_field(197, 2**32 - 1)
    assert device.read(FAST).values[q.ENERGY] == pytest.approx(500)
    gpus.gpus[0].set_energy(3)
    assert device.read(FAST).values[q.ENERGY] == pytest.approx(3)


def test_what_a_device_lacks_is_asked_for_once(gpus: FakeGpus, library: NvmlLibrary) -> None:
    gpus.fail("nvmlDeviceGetUtilizationRates", NOT_SUPPORTED)
    gpus.gpus[0].set_field(82, code=NOT_SUPPORTED)
    device = library.devices()[0]
    for _ in range(3):
        values = device.read(FAST).values
        assert q.UTILIZATION not in values and q.TEMPERATURE_MEMORY not in values
        assert q.POWER in values
    assert gpus.calls()["nvmlDeviceGetUtilizationRates"] == 1
    gpus.mend()
    gpus.gpus[0].set_field(82, 50)
    assert q.UTILIZATION not in device.read(FAST).values


def test_a_field_that_fails_once_is_there_again_the_next_time(gpus: FakeGpus, library: NvmlLibrary) -> None:
    device = library.devices()[0]
    gpus.gpus[0].set_field(82, 50)
    device.read(FAST)
    gpus.gpus[0].set_field(82, code=10)
    gpus.fail("nvmlDeviceGetTemperatureV", 10)
    assert not {q.TEMPERATURE, q.TEMPERATURE_MEMORY} & set(device.read(FAST).values)
    gpus.mend()
    gpus.gpus[0].set_field(82, 51)
    assert device.read(FAST).values[q.TEMPERATURE_MEMORY] == 51
    assert device.read(FAST).values[q.TEMPERATURE] == 35


@pytest.mark.parametrize(
    ("kind", "bits", "value"),
    [
        (0, int.from_bytes(struct.pack("=d", 71.5), sys.byteorder), 71.5),
        (1, 0xDEADBEEF_00000047, 71),  # what is left of an earlier value does not count
        (2, 71, 71),
        (4, 2**64 - 5, -5),
        (5, 2**32 - 5, -5),
        (6, 0xFFFF_0047, 71),
        (1, 0xFFFFFFFF, None),  # the driver's word for nothing
        (3, 0xFFFFFFFFFFFFFFFF, None),
    ],
)
def test_a_field_is_read_by_its_type(
    gpus: FakeGpus, library: NvmlLibrary, kind: int, bits: int, value: float | None
) -> None:
    gpus.gpus[0].set_field(82, bits)
    gpus.state.gpus[0].fields[0].type = kind
    assert library.devices()[0].read(FAST).values.get(q.TEMPERATURE_MEMORY) == value


def test_an_older_call_stands_in_for_a_newer_one(gpus: FakeGpus, library: NvmlLibrary) -> None:
    gpu = gpus.gpus[0]
    gpu.set(memory_used=1 << 30, memory_reserved=1 << 20)
    for newer in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperatureV"):
        gpus.fail(newer, 13)
    for number in (83, 185, 186):
        gpu.set_field(number, code=NOT_SUPPORTED)
    values = library.devices()[0].read(FAST).values
    assert values[q.MEMORY_USED] == (1 << 30) + (1 << 20)
    assert {q.THROTTLE_REASONS, q.TEMPERATURE, q.ENERGY, q.POWER} <= set(values)


def test_without_fields_altogether_the_rest_is_read(gpus: FakeGpus, library: NvmlLibrary) -> None:
    gpus.fail("nvmlDeviceGetFieldValues", 13)
    device = library.devices()[0]
    assert {q.ENERGY, q.POWER, q.UTILIZATION} <= set(device.read(FAST).values)
    device.read(SLOW)
    device.read(FAST)
    assert gpus.calls()["nvmlDeviceGetFieldValues"] == 2


def test_a_lost_gpu_is_told_apart_and_leaves_the_others_alone(gpus: FakeGpus, library: NvmlLibrary) -> None:
    first, second = library.devices()
    first.read(FAST)
    gpus.gpus[0].lose()
    for group in (FAST, SLOW):
        with pytest.raises(DeviceLostError) as caught:
            first.read(group)
        assert caught.value.device == first.identity.id and caught.value.code == 15
    with pytest.raises(DeviceLostError):
        first.processes()
    assert q.POWER in second.read(FAST).values
    gpus.gpus[0].recover()
    assert q.POWER in first.read(FAST).values


@pytest.mark.parametrize(("code", "lost"), [(1, False), (9, False), (18, False), (15, True), (16, True), (28, True)])
def test_an_error_of_the_whole_reading_is_raised(gpus: FakeGpus, library: NvmlLibrary, code: int, lost: bool) -> None:
    device = library.devices()[0]
    gpus.fail("", code)
    with pytest.raises(DeviceError) as caught:
        device.read(FAST)
    assert (type(caught.value) is DeviceLostError) is lost
    assert caught.value.code == code and device.identity.id in str(caught.value)


@pytest.mark.parametrize("code", [10, 17, 20, 21, 999, 12345])
def test_an_error_that_passes_is_raised_while_nothing_can_be_read(gpus: FakeGpus, library: NvmlLibrary, code: int) -> None:  # fmt: skip
    device = library.devices()[0]
    device.read(FAST)
    gpus.fail("", code)
    with pytest.raises(DeviceError):
        device.read(FAST)
    gpus.mend()
    assert q.UTILIZATION in device.read(FAST).values


def test_a_slow_driver_shows_in_the_duration(gpus: FakeGpus, library: NvmlLibrary) -> None:
    device = library.devices()[0]
    device.read(FAST)
    gpus.delay("nvmlDeviceGetUtilizationRates", 0.05)
    reading = device.read(FAST)
    assert 0.05e9 <= reading.duration_ns < 2e9
    assert abs(time.monotonic_ns() - reading.time_ns) < 2e9


def test_processes_are_listed_with_their_memory(gpus: FakeGpus, library: NvmlLibrary) -> None:
    device = library.devices()[0]
    assert device.processes() == {}
    gpus.gpus[0].set_processes({4711: 2 << 30, 4712: 0xFFFFFFFFFFFFFFFF})
    assert device.processes() == {4711: 2 << 30, 4712: 0}


def test_expensive_calls_are_never_made_by_reading(gpus: FakeGpus, library: NvmlLibrary) -> None:
    for device in library.devices():
        for group in device.groups:
            device.read(group)
    made = set(gpus.calls())
    assert not made & {"nvmlDeviceGetPcieThroughput", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3"}  # fmt: skip


def test_an_unknown_group_is_refused(library: NvmlLibrary) -> None:
    with pytest.raises(KeyError, match="fast, slow"):
        library.devices()[0].read("weekly")
