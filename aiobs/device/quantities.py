"""What can be read from a device: one row for each, with the telemetry that it becomes.

The key of a quantity is its telemetry name, followed by ``/variant`` where several share the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aiobs import names
from aiobs.device.base import FAST, SLOW

GAUGE, COUNTER, UPDOWN = "gauge", "sum", "updown"


@dataclass(frozen=True)
class Quantity:
    """One row.

    Attributes:
        key: in :attr:`aiobs.device.base.Reading.values`.
        metric: telemetry name.
        group: in which it is read.
        kind: gauge, sum (cumulative) or updown, as in the agent's instruments.
        unit: of the value, as UCUM.
        description: for people.
        attributes: that tell it from others of the same metric, beside those of the device.
        limits: lowest and highest value that make sense; None: no bound.
        typed: whether the conventions want ``hw.type`` on it.
    """

    key: str
    metric: str
    group: str
    kind: str
    unit: str
    description: str
    attributes: tuple[tuple[str, str], ...] = ()
    limits: tuple[float, float | None] = (0, None)
    typed: bool = False


UTILIZATION = names.HW_GPU_UTILIZATION
MEMORY_BANDWIDTH = names.GPU_MEMORY_BANDWIDTH_UTILIZATION
MEMORY_USED = names.HW_GPU_MEMORY_USAGE
MEMORY_LIMIT = names.HW_GPU_MEMORY_LIMIT
MEMORY_UTILIZATION = names.HW_GPU_MEMORY_UTILIZATION
POWER = names.HW_POWER
ENERGY = names.HW_ENERGY
TEMPERATURE = f"{names.HW_TEMPERATURE}/core"
TEMPERATURE_MEMORY = f"{names.HW_TEMPERATURE}/memory"
CLOCK_SM = f"{names.GPU_CLOCK}/sm"
CLOCK_MEMORY = f"{names.GPU_CLOCK}/memory"
PERFORMANCE_STATE = names.GPU_PERFORMANCE_STATE
THROTTLE_REASONS = names.GPU_THROTTLE_REASONS
ECC_CORRECTED = f"{names.HW_ERRORS}/corrected"
ECC_UNCORRECTED = f"{names.HW_ERRORS}/uncorrected"
PCIE_TRANSMIT = f"{names.HW_GPU_IO}/pcie/transmit"
PCIE_RECEIVE = f"{names.HW_GPU_IO}/pcie/receive"
PCIE_REPLAYS = names.GPU_PCIE_REPLAYS
NVLINK_TRANSMIT = f"{names.HW_GPU_IO}/nvlink/transmit"
NVLINK_RECEIVE = f"{names.HW_GPU_IO}/nvlink/receive"
NVLINK_ACTIVE = names.GPU_NVLINK_ACTIVE
NVLINK_REPLAY = f"{names.GPU_NVLINK_ERRORS}/replay"
NVLINK_RECOVERY = f"{names.GPU_NVLINK_ERRORS}/recovery"
NVLINK_CRC = f"{names.GPU_NVLINK_ERRORS}/crc"
REMAPPED_CORRECTABLE = f"{names.GPU_REMAPPED_ROWS}/corrected"
REMAPPED_UNCORRECTABLE = f"{names.GPU_REMAPPED_ROWS}/uncorrected"
REMAP_PENDING = names.GPU_REMAP_PENDING
REMAP_FAILED = names.GPU_REMAP_FAILED
RETIRED_CORRECTABLE = f"{names.GPU_RETIRED_PAGES}/corrected"
RETIRED_UNCORRECTABLE = f"{names.GPU_RETIRED_PAGES}/uncorrected"
RETIREMENT_PENDING = names.GPU_RETIREMENT_PENDING
FABRIC_STATE = names.GPU_FABRIC_STATE
FABRIC_STATUS = names.GPU_FABRIC_STATUS
RECOVERY_ACTION = names.GPU_RECOVERY_ACTION

THROTTLED: Mapping[str, str] = {
    reason: f"{names.GPU_THROTTLE_DURATION}/{reason}"
    for reason in ("power_cap", "sync_boost", "thermal", "hw_thermal", "hw_power_brake")
}
"""Key of the seconds that clocks were held down, by reason."""

THROTTLE_BITS: Mapping[int, str] = {
    0x4: "power_cap", 0x8: "hw_slowdown", 0x10: "sync_boost", 0x20: "thermal", 0x40: "hw_thermal",
    0x80: "hw_power_brake",
}  # fmt: skip
"""Reason by its bit in THROTTLE_REASONS; idling and clocks that somebody asked for are no throttling."""

_CORRECTED = ((names.ERROR_TYPE, "corrected"),)
_UNCORRECTED = ((names.ERROR_TYPE, "uncorrected"),)
_YES_NO = (0.0, 1.0)


def _moved(key: str, bus: str, direction: str) -> Quantity:
    return Quantity(
        key, names.HW_GPU_IO, SLOW, COUNTER, "By", "Bytes received and transmitted by the GPU.",
        ((names.NETWORK_IO_DIRECTION, direction), (names.GPU_BUS, bus)),
    )  # fmt: skip


def _nvlink(key: str, kind: str) -> Quantity:
    return Quantity(
        key, names.GPU_NVLINK_ERRORS, SLOW, COUNTER, "{error}", "Errors of the GPU's NVLinks.", ((names.ERROR_TYPE, kind),)
    )  # fmt: skip


_ROWS = (
    Quantity(UTILIZATION, names.HW_GPU_UTILIZATION, FAST, GAUGE, "1", "Share of time in which a kernel ran.", ((names.HW_GPU_TASK, "general"),), _YES_NO),
    Quantity(MEMORY_BANDWIDTH, names.GPU_MEMORY_BANDWIDTH_UTILIZATION, FAST, GAUGE, "1", "Share of time in which device memory was read or written.", limits=_YES_NO),
    Quantity(MEMORY_USED, names.HW_GPU_MEMORY_USAGE, FAST, UPDOWN, "By", "GPU memory used."),
    Quantity(MEMORY_LIMIT, names.HW_GPU_MEMORY_LIMIT, FAST, UPDOWN, "By", "Size of the GPU memory."),
    Quantity(MEMORY_UTILIZATION, names.HW_GPU_MEMORY_UTILIZATION, FAST, GAUGE, "1", "Share of GPU memory used.", limits=_YES_NO),
    Quantity(POWER, names.HW_POWER, FAST, GAUGE, "W", "Instantaneous power consumed by the component.", typed=True),
    Quantity(ENERGY, names.HW_ENERGY, FAST, COUNTER, "J", "Energy consumed by the component.", typed=True),
    Quantity(TEMPERATURE, names.HW_TEMPERATURE, FAST, GAUGE, "Cel", "Temperature in degrees Celsius.", ((names.HW_SENSOR_LOCATION, "gpu"),), (-60, 200), typed=True),
    Quantity(TEMPERATURE_MEMORY, names.HW_TEMPERATURE, FAST, GAUGE, "Cel", "Temperature in degrees Celsius.", ((names.HW_SENSOR_LOCATION, "memory"),), (-60, 200), typed=True),
    Quantity(CLOCK_SM, names.GPU_CLOCK, FAST, GAUGE, "Hz", "Frequency of a clock of the GPU.", ((names.GPU_CLOCK_NAME, "sm"),)),
    Quantity(CLOCK_MEMORY, names.GPU_CLOCK, FAST, GAUGE, "Hz", "Frequency of a clock of the GPU.", ((names.GPU_CLOCK_NAME, "memory"),)),
    Quantity(PERFORMANCE_STATE, names.GPU_PERFORMANCE_STATE, FAST, GAUGE, "1", "Performance state, 0 the fastest.", limits=(0, 32)),
    Quantity(THROTTLE_REASONS, names.GPU_THROTTLE_REASONS, FAST, GAUGE, "1", "Mask of why clocks are held down now."),
    *(
        Quantity(key, names.GPU_THROTTLE_DURATION, FAST, COUNTER, "s", "Time in which clocks were held down.", ((names.GPU_THROTTLE_REASON, reason),))
        for reason, key in THROTTLED.items()
    ),
    Quantity(ECC_CORRECTED, names.HW_ERRORS, SLOW, COUNTER, "{error}", "Number of errors encountered by the component.", _CORRECTED, typed=True),
    Quantity(ECC_UNCORRECTED, names.HW_ERRORS, SLOW, COUNTER, "{error}", "Number of errors encountered by the component.", _UNCORRECTED, typed=True),
    _moved(PCIE_TRANSMIT, "pcie", "transmit"),
    _moved(PCIE_RECEIVE, "pcie", "receive"),
    Quantity(PCIE_REPLAYS, names.GPU_PCIE_REPLAYS, SLOW, COUNTER, "{replay}", "Packets that had to be sent again over PCIe."),
    _moved(NVLINK_TRANSMIT, "nvlink", "transmit"),
    _moved(NVLINK_RECEIVE, "nvlink", "receive"),
    Quantity(NVLINK_ACTIVE, names.GPU_NVLINK_ACTIVE, SLOW, GAUGE, "{link}", "NVLinks that are up."),
    _nvlink(NVLINK_REPLAY, "replay"),
    _nvlink(NVLINK_RECOVERY, "recovery"),
    _nvlink(NVLINK_CRC, "crc"),
    Quantity(REMAPPED_CORRECTABLE, names.GPU_REMAPPED_ROWS, SLOW, GAUGE, "{row}", "Rows of memory replaced by spare ones.", _CORRECTED),
    Quantity(REMAPPED_UNCORRECTABLE, names.GPU_REMAPPED_ROWS, SLOW, GAUGE, "{row}", "Rows of memory replaced by spare ones.", _UNCORRECTED),
    Quantity(REMAP_PENDING, names.GPU_REMAP_PENDING, SLOW, GAUGE, "1", "1 where a row waits for a reset to be replaced.", limits=_YES_NO),
    Quantity(REMAP_FAILED, names.GPU_REMAP_FAILED, SLOW, GAUGE, "1", "1 where a row could not be replaced.", limits=_YES_NO),
    Quantity(RETIRED_CORRECTABLE, names.GPU_RETIRED_PAGES, SLOW, GAUGE, "{page}", "Pages of memory taken out of use.", _CORRECTED),
    Quantity(RETIRED_UNCORRECTABLE, names.GPU_RETIRED_PAGES, SLOW, GAUGE, "{page}", "Pages of memory taken out of use.", _UNCORRECTED),
    Quantity(RETIREMENT_PENDING, names.GPU_RETIREMENT_PENDING, SLOW, GAUGE, "1", "1 where a page waits for a restart to be taken out of use.", limits=_YES_NO),
    Quantity(FABRIC_STATE, names.GPU_FABRIC_STATE, SLOW, GAUGE, "1", "Joining the NVLink fabric: 0 not supported, 1 not started, 2 in progress, 3 completed.", limits=(0, 3)),
    Quantity(FABRIC_STATUS, names.GPU_FABRIC_STATUS, SLOW, GAUGE, "1", "How joining the NVLink fabric went, 0: well."),
    Quantity(RECOVERY_ACTION, names.GPU_RECOVERY_ACTION, SLOW, GAUGE, "1", "What the driver asks for: 0 nothing, 1 and 6 reset, 2 and 7 reboot, 3 drain peers, 4 drain and reset, 5 recover the domain.", limits=(0, 32)),
)  # fmt: skip

QUANTITIES: Mapping[str, Quantity] = {row.key: row for row in _ROWS}
