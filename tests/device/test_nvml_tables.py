"""Our tables of NVML's numbers, held against those of the real pynvml."""

from __future__ import annotations

import ctypes

import pytest

from aiobs.device import quantities as q
from aiobs.device.nvml_device import _FABRIC_VERSION, _TEMPERATURE_VERSION, _Fabric, _Temperature
from aiobs.device.nvml_errors import CODES, SUCCESS
from aiobs.device.nvml_events import _KINDS, WANTED
from aiobs.device.nvml_fields import _ROW, FIELDS

pynvml = pytest.importorskip("pynvml")
pytestmark = pytest.mark.skipif(
    not hasattr(pynvml, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"), reason="an older pynvml has fewer names"
)

FIELD_WORDS = {
    q.ENERGY: "TOTAL_ENERGY", q.POWER: "POWER_", q.TEMPERATURE_MEMORY: "MEMORY_TEMP", q.ECC_CORRECTED: "ECC_SBE",
    q.ECC_UNCORRECTED: "ECC_DBE", q.RETIRED_CORRECTABLE: "RETIRED_SBE", q.RETIRED_UNCORRECTABLE: "RETIRED_DBE",
    q.RETIREMENT_PENDING: "RETIRED_PENDING", q.REMAPPED_CORRECTABLE: "REMAPPED_COR",
    q.REMAPPED_UNCORRECTABLE: "REMAPPED_UNC", q.REMAP_PENDING: "REMAPPED_PENDING", q.REMAP_FAILED: "REMAPPED_FAILURE",
    q.PCIE_REPLAYS: "PCIE_REPLAY_COUNTER", q.PCIE_TRANSMIT: "PCIE_COUNT_TX_BYTES", q.PCIE_RECEIVE: "PCIE_COUNT_RX_BYTES",
    q.NVLINK_REPLAY: "REPLAY", q.NVLINK_RECOVERY: "RECOVERY", q.NVLINK_CRC: "CRC", q.NVLINK_ACTIVE: "NVLINK_GET_STATE",
    q.RECOVERY_ACTION: "GPU_RECOVERY_ACTION", q.THROTTLED["power_cap"]: "POLICY_POWER",
    q.THROTTLED["sync_boost"]: "SYNC_BOOST", q.THROTTLED["hw_thermal"]: "HW_THERM",
    q.THROTTLED["hw_power_brake"]: "POWER_BRAKE",
}  # fmt: skip
SEVERAL = {
    q.NVLINK_TRANSMIT: ("XMIT_BYTES", "THROUGHPUT_DATA_TX"),
    q.NVLINK_RECEIVE: ("RCV_BYTES", "THROUGHPUT_DATA_RX"),
    q.THROTTLED["thermal"]: ("SW_THERM", "POLICY_THERMAL"),
}


def test_fields_are_what_pynvml_calls_so() -> None:
    called: dict[int, list[str]] = {}
    for name, number in vars(pynvml).items():
        if name.startswith("NVML_FI_DEV_"):
            called.setdefault(number, []).append(name)
    rows = [row for rows in FIELDS.values() for row in rows]
    assert {row.key for row in rows} == FIELD_WORDS.keys() | SEVERAL.keys()
    for row in rows:
        words = SEVERAL.get(row.key) or (FIELD_WORDS[row.key],)
        assert any(word in name for word in words for name in called[row.number]), (row, called[row.number])


def test_every_error_has_a_meaning() -> None:
    known = {
        number
        for name, number in vars(pynvml).items()
        if name.startswith("NVML_ERROR_") and isinstance(number, int) and number != SUCCESS
    }
    # Not an error of a device: asking a second time for what one has already.
    assert known - CODES.keys() <= {pynvml.NVML_ERROR_ALREADY_INITIALIZED}


def test_events_are_what_pynvml_calls_so() -> None:
    for name, bit in {
        "DoubleBitEccError": 0x2, "SingleBitEccErrorStorm": 0x200, "DramRetirementEvent": 0x400, "DramRetirementFailure": 0x800,
        "NonFatalPoisonError": 0x1000, "FatalPoisonError": 0x2000, "GpuUnavailableError": 0x4000, "GpuRecoveryAction": 0x8000,
    }.items():  # fmt: skip
        assert getattr(pynvml, f"nvmlEventType{name}", bit) == bit
        assert bit in _KINDS
    assert pynvml.nvmlEventMigConfigChange in _KINDS
    assert WANTED & pynvml.nvmlEventTypeXidCriticalError
    assert not WANTED & (pynvml.nvmlEventTypeSingleBitEccError | pynvml.nvmlEventTypePState | pynvml.nvmlEventTypeClock)


def test_structures_have_the_drivers_sizes() -> None:
    assert _ROW.size == ctypes.sizeof(pynvml.c_nvmlFieldValue_t)
    assert ctypes.sizeof(_Fabric) == ctypes.sizeof(pynvml.c_nvmlGpuFabricInfoV_t) == _FABRIC_VERSION & 0xFFFFFF
    assert _Fabric.state.offset == pynvml.c_nvmlGpuFabricInfoV_t.state.offset
    assert pynvml.nvmlGpuFabricInfo_v2 == _FABRIC_VERSION
    assert ctypes.sizeof(_Temperature) == _TEMPERATURE_VERSION & 0xFFFFFF


def test_bits_of_throttling_are_what_pynvml_calls_so() -> None:
    named = {
        "power_cap": "SwPowerCap", "hw_slowdown": "HwSlowdown", "sync_boost": "SyncBoost", "thermal": "SwThermalSlowdown",
        "hw_thermal": "HwThermalSlowdown", "hw_power_brake": "HwPowerBrakeSlowdown",
    }  # fmt: skip
    assert {reason: bit for bit, reason in q.THROTTLE_BITS.items()} == {
        reason: getattr(pynvml, f"nvmlClocksThrottleReason{name}") for reason, name in named.items()
    }
