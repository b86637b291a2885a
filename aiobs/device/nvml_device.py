"""One NVIDIA GPU, or one MIG instance, read through NVML.

Structures and function pointers are made once, so that a reading allocates next to nothing. What the fields'
call does not bring has a call of its own: a :class:`_Call`, several alternatives of which the first that the
device answers is kept.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from aiobs.clock import monotonic_ns
from aiobs.device import quantities as q
from aiobs.device.base import FAST, PERIODS, SLOW, Identity, Reading
from aiobs.device.nvml_errors import ABSENT, LOST, REFUSED, SUCCESS, error, outcome
from aiobs.device.nvml_fields import FIELDS, FieldCall
from aiobs.errors import DeviceLostError

_UNKNOWN_STATE = 32
_MHZ = 1e6
_GONE = (2, 6)
"""What a driver says of an instance that was taken away: invalid argument, not found."""
_SM, _MEMORY = 1, 2
_FABRIC_VERSION = 0x02000024
_TEMPERATURE_VERSION = 0x0100000C

Take = Callable[[dict[str, float]], None]


class _Call(NamedTuple):
    """What brings the value of `key`: alternatives, each a function to call and what to take from its answer."""

    key: str
    alternatives: list[tuple[Callable[[], int], Take]]


class _Temperature(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint), ("sensor", ctypes.c_uint), ("degrees", ctypes.c_int))


class _Fabric(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint), ("cluster", ctypes.c_ubyte * 16), ("status", ctypes.c_int),
        ("clique", ctypes.c_uint), ("state", ctypes.c_ubyte), ("health", ctypes.c_uint),
    )  # fmt: skip


class NvmlDevice:
    """See :class:`aiobs.device.base.Device`.

    Attributes:
        instance: MIG's numbers of the GPU instance and compute instance; None for a whole GPU.
    """

    def __init__(self, nvml: Any, handle: Any, identity: Identity, instance: tuple[int, int] | None = None) -> None:
        self._nvml, self._handle = nvml, handle
        self.identity = identity
        self.instance = instance
        self._calls: dict[str, list[_Call]] = {FAST: [], SLOW: []}
        self._fields: dict[str, FieldCall] = {}
        self._prepare()
        self.groups: Mapping[str, float] = {FAST: PERIODS[FAST]} if instance else PERIODS

    @property
    def handle(self) -> Any:
        """NVML's handle."""
        return self._handle

    def read(self, group: str) -> Reading:
        """See :meth:`aiobs.device.base.Device.read`."""
        if group not in self.groups:
            raise KeyError(f"{self.identity.id} has no group {group!r}; there are {', '.join(self.groups)}")
        begin = monotonic_ns()
        values: dict[str, float] = {}
        worst = self._read_fields(group, values)
        for call in self._calls[group]:
            if call.key not in values:
                worst = self._read_first(call.alternatives, values) or worst
        if worst and not values:
            raise error(self.identity.id, worst)
        end = monotonic_ns()
        return Reading(group, begin + (end - begin) // 2, values, end - begin)

    def processes(self) -> Mapping[int, int]:
        """See :meth:`aiobs.device.base.Device.processes`; processes that compute, not those that draw."""
        for name in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"):
            function = getattr(self._nvml, name, None)
            if function is None:
                continue
            try:
                found = function(self._handle)
            except self._nvml.NVMLError as refused:
                if outcome(refused.value) == ABSENT:
                    continue
                raise error(self.identity.id, refused.value) from refused
            return {row.pid: row.usedGpuMemory or 0 for row in found}
        return {}

    def _read_fields(self, group: str, values: dict[str, float]) -> int:
        fields = self._fields.get(group)
        if fields is None:
            return SUCCESS
        code = fields.read(values)
        self._stop_at(code)
        if code != SUCCESS and outcome(code) == ABSENT:
            del self._fields[group]
            return SUCCESS
        return code

    def _read_first(self, alternatives: list[tuple[Callable[[], int], Take]], values: dict[str, float]) -> int:
        """Read one quantity; alternatives that are not there are dropped. Returns 0 or NVML's code."""
        while alternatives:
            call, take = alternatives[0]
            code = call()
            if code == SUCCESS:
                take(values)
                return SUCCESS
            self._stop_at(code)
            if outcome(code) != ABSENT:
                return code
            alternatives.pop(0)
        return SUCCESS

    def _stop_at(self, code: int) -> None:
        if self.instance is not None and code in _GONE:
            raise DeviceLostError(self.identity.id, "the GPU is no longer divided in this way", code)
        if code != SUCCESS and outcome(code) in (LOST, REFUSED):
            raise error(self.identity.id, code)

    # -- what there is to call ------------------------------------------------------------------------------

    def _function(self, name: str) -> Any:
        return getattr(self._nvml.nvmlLib, name, None)

    def _alternatives(self, group: str, key: str, *choices: tuple[str, tuple[Any, ...], Take]) -> None:
        """Choices: function, arguments after the handle, and what to take from them."""
        found: list[tuple[Callable[[], int], Take]] = [
            (partial(function, self._handle, *arguments), take)
            for name, arguments, take in choices
            if (function := self._function(name)) is not None
        ]
        if found:
            self._calls[group].append(_Call(key, found))

    def _prepare(self) -> None:
        self._memory()
        if self.instance is not None:
            return
        fields = self._function("nvmlDeviceGetFieldValues")
        if fields is not None:
            self._fields = {group: FieldCall(self._nvml, fields, self._handle, rows) for group, rows in FIELDS.items()}
        self._utilization()
        self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong(), q.ENERGY, 1e-3)
        self._number("nvmlDeviceGetPowerUsage", ctypes.c_uint(), q.POWER, 1e-3)
        self._temperature()
        self._number("nvmlDeviceGetClockInfo", ctypes.c_uint(), q.CLOCK_SM, _MHZ, ctypes.c_uint(_SM))
        self._number("nvmlDeviceGetClockInfo", ctypes.c_uint(), q.CLOCK_MEMORY, _MHZ, ctypes.c_uint(_MEMORY))
        self._number("nvmlDeviceGetPerformanceState", ctypes.c_uint(), q.PERFORMANCE_STATE)
        self._reasons()
        self._fabric()

    def _number(self, name: str, place: Any, key: str, factor: float = 1.0, *arguments: Any) -> None:
        def take(values: dict[str, float]) -> None:
            if key != q.PERFORMANCE_STATE or place.value < _UNKNOWN_STATE:
                values[key] = place.value * factor

        self._alternatives(FAST, key, (name, (*arguments, ctypes.byref(place)), take))

    def _memory(self) -> None:
        second, first = self._nvml.c_nvmlMemory_v2_t(), self._nvml.c_nvmlMemory_t()
        second.version = self._nvml.nvmlMemory_v2

        def take(place: Any, values: dict[str, float]) -> None:
            values[q.MEMORY_USED], values[q.MEMORY_LIMIT] = float(place.used), float(place.total)
            if place.total:
                values[q.MEMORY_UTILIZATION] = place.used / place.total

        self._alternatives(
            FAST,
            q.MEMORY_USED,
            # The second version does not count what the driver keeps for itself as used.
            ("nvmlDeviceGetMemoryInfo_v2", (ctypes.byref(second),), partial(take, second)),
            ("nvmlDeviceGetMemoryInfo", (ctypes.byref(first),), partial(take, first)),
        )

    def _utilization(self) -> None:
        rates = self._nvml.c_nvmlUtilization_t()

        def take(values: dict[str, float]) -> None:
            values[q.UTILIZATION], values[q.MEMORY_BANDWIDTH] = min(rates.gpu, 100) / 100, min(rates.memory, 100) / 100

        self._alternatives(FAST, q.UTILIZATION, ("nvmlDeviceGetUtilizationRates", (ctypes.byref(rates),), take))

    def _temperature(self) -> None:
        old, new = ctypes.c_uint(), _Temperature(version=_TEMPERATURE_VERSION)

        def take_new(values: dict[str, float]) -> None:
            values[q.TEMPERATURE] = float(new.degrees)

        def take_old(values: dict[str, float]) -> None:
            values[q.TEMPERATURE] = float(old.value)

        self._alternatives(
            FAST,
            q.TEMPERATURE,
            ("nvmlDeviceGetTemperatureV", (ctypes.byref(new),), take_new),
            ("nvmlDeviceGetTemperature", (ctypes.c_uint(0), ctypes.byref(old)), take_old),
        )

    def _reasons(self) -> None:
        mask = ctypes.c_ulonglong()

        def take(values: dict[str, float]) -> None:
            values[q.THROTTLE_REASONS] = float(mask.value)

        self._alternatives(
            FAST,
            q.THROTTLE_REASONS,
            ("nvmlDeviceGetCurrentClocksEventReasons", (ctypes.byref(mask),), take),
            ("nvmlDeviceGetCurrentClocksThrottleReasons", (ctypes.byref(mask),), take),
        )

    def _fabric(self) -> None:
        fabric = _Fabric(version=_FABRIC_VERSION)

        def take(values: dict[str, float]) -> None:
            if fabric.state:  # else there is no fabric to join
                values[q.FABRIC_STATE], values[q.FABRIC_STATUS] = float(fabric.state), float(fabric.status)

        self._alternatives(SLOW, q.FABRIC_STATE, ("nvmlDeviceGetGpuFabricInfoV", (ctypes.byref(fabric),), take))
