"""AMD GPUs through amdsmi, the Python package that comes with ROCm: the only place that imports it.

Written against its documented interface of version 7; a GPU of AMD's was never at hand.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiobs.clock import monotonic_ns
from aiobs.device import quantities as q
from aiobs.device.absence import Absence
from aiobs.device.base import (
    FAST,
    FATAL,
    LOST,
    OTHER,
    PERIODS,
    RECOVERED,
    SLOW,
    WARNING,
    Device,
    DeviceEvent,
    Identity,
    Reading,
)
from aiobs.errors import DeviceError, DeviceLostError

VENDOR = "amd"
_ABSENT = frozenset({1, 2, 3, 5, 10, 14, 52, 55})
"""amdsmi's status numbers for what the device, the driver or our rights do not allow."""
_LOST = frozenset({31, 51, 4, 6})
_TIMEOUT, _NO_DATA = 8, 40
_MIB, _MHZ, _MICRO = 1 << 20, 1e6, 1e-6
_EVENTS: Mapping[str, tuple[str, str, str]] = {
    "VMFAULT": (OTHER, "A kernel touched memory that is not mapped.", WARNING),
    "THERMAL_THROTTLE": (OTHER, "The GPU slows down because it is hot.", WARNING),
    "GPU_PRE_RESET": (LOST, "The GPU is about to be reset.", FATAL),
    "GPU_POST_RESET": (RECOVERED, "The GPU was reset.", WARNING),
}  # fmt: skip


def open_library(root: Path = Path("/")) -> AmdLibrary | Absence:
    """amdsmi, opened, or why it cannot be."""
    hardware = (root / "dev/kfd").exists()
    try:
        import amdsmi  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, KeyError) as missing:  # without ROCm the package fails to import in many ways
        return Absence(VENDOR, f"amdsmi cannot be imported: {missing}", "install ROCm's amdsmi package", worth_saying=hardware)  # fmt: skip
    try:
        amdsmi.amdsmi_init()
    except amdsmi.AmdSmiException as refused:
        return Absence(VENDOR, _said(refused), "load the amdgpu driver", worth_saying=hardware)
    library = AmdLibrary(amdsmi)
    try:
        there = library.devices()
    except DeviceError as refused:
        library.close()
        return Absence(VENDOR, str(refused), worth_saying=hardware)
    if not there:
        library.close()
        return Absence(VENDOR, "the driver shows no GPU to us", "give the container /dev/kfd and /dev/dri", worth_saying=hardware)  # fmt: skip
    return library


def _said(error: Exception) -> str:
    return " ".join(str(error).split())


def _code(error: Exception) -> int:
    return int(getattr(error, "err_code", 0) or 0)


class AmdDevice:
    """See :class:`aiobs.device.base.Device`."""

    groups: Mapping[str, float] = PERIODS

    def __init__(self, smi: Any, handle: Any, identity: Identity) -> None:
        self._smi, self.handle, self.identity = smi, handle, identity
        self._calls: dict[str, list[Callable[[], Mapping[str, float]]]] = {
            FAST: [self._activity, self._memory, self._power, self._energy, self._temperature, self._memory_temperature, self._clock_sm, self._clock_memory],
            SLOW: [self._ecc, self._pcie],
        }  # fmt: skip

    def read(self, group: str) -> Reading:
        """See :meth:`aiobs.device.base.Device.read`."""
        if group not in self.groups:
            raise KeyError(f"{self.identity.id} has no group {group!r}; there are {', '.join(self.groups)}")
        begin = monotonic_ns()
        values: dict[str, float] = {}
        refused: Exception | None = None
        for call in list(self._calls[group]):
            try:
                values.update(call())
            except self._smi.AmdSmiException as error:
                code = _code(error)
                if code in _LOST:
                    raise DeviceLostError(self.identity.id, _said(error), code) from error
                if code in _ABSENT or not code:
                    self._calls[group].remove(call)
                else:
                    refused = error
        if refused is not None and not values:
            raise DeviceError(self.identity.id, _said(refused), _code(refused)) from refused
        end = monotonic_ns()
        return Reading(group, begin + (end - begin) // 2, values, end - begin)

    def processes(self) -> Mapping[int, int]:
        """See :meth:`aiobs.device.base.Device.processes`."""
        try:
            rows = self._smi.amdsmi_get_gpu_process_list(self.handle)
        except self._smi.AmdSmiException as error:
            if _code(error) in _LOST:
                raise DeviceLostError(self.identity.id, _said(error), _code(error)) from error
            if _code(error) in _ABSENT | {_NO_DATA}:
                return {}
            raise DeviceError(self.identity.id, _said(error), _code(error)) from error
        return {int(row["pid"]): int(row["memory_usage"]["vram_mem"]) for row in rows}

    # -- one call each; a value that is not there is "N/A" ---------------------------------------------------

    def _activity(self) -> Mapping[str, float]:
        found = self._smi.amdsmi_get_gpu_activity(self.handle)
        return _numbers(
            {q.UTILIZATION: (found["gfx_activity"], 0.01), q.MEMORY_BANDWIDTH: (found["umc_activity"], 0.01)}
        )

    def _memory(self) -> Mapping[str, float]:
        found = self._smi.amdsmi_get_gpu_vram_usage(self.handle)
        values = _numbers({q.MEMORY_USED: (found["vram_used"], _MIB), q.MEMORY_LIMIT: (found["vram_total"], _MIB)})
        if values.get(q.MEMORY_LIMIT) and q.MEMORY_USED in values:
            values[q.MEMORY_UTILIZATION] = values[q.MEMORY_USED] / values[q.MEMORY_LIMIT]
        return values

    def _power(self) -> Mapping[str, float]:
        found = self._smi.amdsmi_get_power_info(self.handle)
        for name in ("current_socket_power", "average_socket_power", "socket_power"):
            values = _numbers({q.POWER: (found.get(name, "N/A"), 1)})
            if values:
                return values
        return {}

    def _energy(self) -> Mapping[str, float]:
        found = self._smi.amdsmi_get_energy_count(self.handle)
        count = found.get("energy_accumulator", found.get("power"))  # its name before ROCm 6.2
        return _numbers({q.ENERGY: (count, float(found["counter_resolution"]) * _MICRO)})

    def _temperature(self) -> Mapping[str, float]:
        kinds = self._smi.AmdSmiTemperatureType
        return self._degrees(q.TEMPERATURE, kinds.HOTSPOT)

    def _memory_temperature(self) -> Mapping[str, float]:
        return self._degrees(q.TEMPERATURE_MEMORY, self._smi.AmdSmiTemperatureType.VRAM)

    def _degrees(self, key: str, sensor: Any) -> Mapping[str, float]:
        current = self._smi.AmdSmiTemperatureMetric.CURRENT
        return _numbers({key: (self._smi.amdsmi_get_temp_metric(self.handle, sensor, current), 1)})

    def _clock_sm(self) -> Mapping[str, float]:
        return self._clock(q.CLOCK_SM, self._smi.AmdSmiClkType.GFX)

    def _clock_memory(self) -> Mapping[str, float]:
        return self._clock(q.CLOCK_MEMORY, self._smi.AmdSmiClkType.MEM)

    def _clock(self, key: str, kind: Any) -> Mapping[str, float]:
        found = self._smi.amdsmi_get_clock_info(self.handle, kind)
        return _numbers({key: (found.get("clk", found.get("cur_clk", "N/A")), _MHZ)})

    def _ecc(self) -> Mapping[str, float]:
        found = self._smi.amdsmi_get_gpu_total_ecc_count(self.handle)
        return _numbers({q.ECC_CORRECTED: (found["correctable_count"], 1), q.ECC_UNCORRECTED: (found["uncorrectable_count"], 1)})  # fmt: skip

    def _pcie(self) -> Mapping[str, float]:
        found = self._smi.amdsmi_get_pcie_info(self.handle)["pcie_metric"]
        return _numbers({q.PCIE_REPLAYS: (found["pcie_replay_count"], 1)})


def _numbers(rows: Mapping[str, tuple[Any, float]]) -> dict[str, float]:
    return {key: value * factor for key, (value, factor) in rows.items() if isinstance(value, (int, float))}


class AmdLibrary:
    """See :class:`aiobs.device.base.DeviceLibrary`; amdsmi must have been initialised, and is ours to shut down."""

    vendor = VENDOR

    def __init__(self, smi: Any) -> None:
        self._smi = smi
        self._devices: list[AmdDevice] = []
        self._readers: list[Any] = []
        self._no_events = ""
        self._closed = False

    @property
    def problems(self) -> Sequence[str]:
        """See :attr:`aiobs.device.base.DeviceLibrary.problems`."""
        return [f"no events: {self._no_events}"] if self._no_events else []

    def devices(self) -> list[Device]:
        """See :meth:`aiobs.device.base.DeviceLibrary.devices`."""
        smi = self._smi
        try:
            handles = smi.amdsmi_get_processor_handles()
            self._stop_events()
            self._devices = [self._device(handle, index) for index, handle in enumerate(handles)]
        except smi.AmdSmiException as refused:
            raise DeviceError("", _said(refused), _code(refused)) from refused
        return list(self._devices)

    def _device(self, handle: Any, index: int) -> AmdDevice:
        smi = self._smi
        memory = 0
        with contextlib.suppress(smi.AmdSmiException):
            memory = int(smi.amdsmi_get_gpu_vram_usage(handle)["vram_total"]) * _MIB
        identity = Identity(
            id=f"GPU-{smi.amdsmi_get_gpu_device_uuid(handle)}",
            index=index,
            name=str(smi.amdsmi_get_gpu_asic_info(handle)["market_name"]),
            vendor=VENDOR,
            memory_bytes=memory,
            driver=str(smi.amdsmi_get_gpu_driver_info(handle)["driver_version"]),
            pci=str(smi.amdsmi_get_gpu_device_bdf(handle)).lower(),
        )
        return AmdDevice(smi, handle, identity)

    def wait_events(self, timeout_s: float) -> list[DeviceEvent]:
        """See :meth:`aiobs.device.base.DeviceLibrary.wait_events`."""
        smi = self._smi
        if not self._readers and not self._no_events:
            kinds = [getattr(smi.AmdSmiEvtNotificationType, name) for name in _EVENTS]
            try:
                self._readers = [smi.AmdSmiEventReader(device.handle, kinds) for device in self._devices]
            except smi.AmdSmiException as refused:
                self._no_events = _said(refused)
        if not self._readers:
            time.sleep(timeout_s)
            return []
        try:
            # One reader tells of all devices that are listened to.
            rows = self._readers[0].read(round(timeout_s * 1000))
        except smi.AmdSmiException as error:
            if _code(error) in (_TIMEOUT, _NO_DATA):
                return []
            raise DeviceError("", _said(error), _code(error)) from error
        return [self._event(row) for row in rows if row["event"] in _EVENTS]

    def _event(self, row: Mapping[str, Any]) -> DeviceEvent:
        kind, text, severity = _EVENTS[row["event"]]
        number = int(getattr(self._smi.AmdSmiEvtNotificationType, row["event"]))
        name = next((d.identity.id for d in self._devices if _same(d.handle, row["processor_handle"])), "")
        return DeviceEvent(name, monotonic_ns(), kind, number, text, severity)

    def close(self) -> None:
        """See :meth:`aiobs.device.base.DeviceLibrary.close`."""
        if self._closed:
            return
        self._closed = True
        self._stop_events()
        with contextlib.suppress(self._smi.AmdSmiException):
            self._smi.amdsmi_shut_down()

    def _stop_events(self) -> None:
        for reader in self._readers:
            with contextlib.suppress(self._smi.AmdSmiException):
                reader.stop()
        self._readers = []


def _same(one: Any, other: Any) -> bool:
    """Whether two handles, pointers in ctypes, are of one device."""
    return bool(getattr(one, "value", one) == getattr(other, "value", other))
