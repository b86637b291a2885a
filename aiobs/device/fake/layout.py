"""The state of the fake GPUs, described once: Python's view and the C header are both made from this table."""

from __future__ import annotations

import ctypes
from typing import Any

MAGIC = 0x4F425347
VERSION = 2
DEVICES = 32
"""Most devices, whole GPUs and instances together."""

FUNCTIONS = (
    "nvmlInitWithFlags", "nvmlInit_v2", "nvmlShutdown", "nvmlErrorString",
    "nvmlSystemGetDriverVersion", "nvmlSystemGetNVMLVersion", "nvmlSystemGetCudaDriverVersion",
    "nvmlSystemGetCudaDriverVersion_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByPciBusId_v2", "nvmlDeviceGetIndex", "nvmlDeviceGetName",
    "nvmlDeviceGetUUID", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetMinorNumber", "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature",
    "nvmlDeviceGetTemperatureV", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetEncoderUtilization",
    "nvmlDeviceGetDecoderUtilization", "nvmlDeviceGetPerformanceState",
    "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetFieldValues", "nvmlDeviceGetPcieThroughput", "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", "nvmlDeviceIsMigDeviceHandle", "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId", "nvmlDeviceGetGpuFabricInfoV",
    "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetSupportedEventTypes",
    "nvmlDeviceRegisterEvents", "nvmlEventSetCreate", "nvmlEventSetWait_v2", "nvmlEventSetFree",
    "nvmlDeviceGetBAR1MemoryInfo", "nvmlDeviceGetComputeMode", "nvmlDeviceGetDisplayActive",
    "nvmlDeviceGetDriverModel", "nvmlDeviceGetFanSpeed", "nvmlDeviceGetPersistenceMode",
    "nvmlDeviceGetPowerManagementLimit", "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlDeviceGetPowerManagementDefaultLimit", "nvmlDeviceSetPowerManagementLimit",
    "nvmlDeviceGetProcessUtilization", "nvmlDeviceGetTotalEccErrors",
)  # fmt: skip
"""What the fake library exports; its calls are counted and can be made to fail by these names."""

RULES, FIELDS, PROCESSES, EVENTS, CALLERS = 32, 64, 16, 64, 64

_TABLES: tuple[tuple[str, tuple[tuple[str, str, int], ...]], ...] = (
    ("Rule", (("function", "i32", 1), ("device", "i32", 1), ("code", "u32", 1), ("hang", "u32", 1), ("delay_us", "u32", 1), ("active", "u32", 1))),
    ("Field", (("number", "u32", 1), ("scope", "u32", 1), ("type", "u32", 1), ("code", "u32", 1), ("value", "u64", 1))),
    ("Process", (("pid", "u32", 1), ("unused", "u32", 1), ("bytes", "u64", 1))),
    ("Event", (("device", "i32", 1), ("unused", "u32", 1), ("type", "u64", 1), ("number", "u64", 1))),
    ("Caller", (("pid", "u32", 1), ("unused", "u32", 1), ("calls", "u64", len(FUNCTIONS)))),
    (
        "Gpu",
        (
            # kind: 0 none, 1 a GPU, 2 an instance of one; parent: slot of that GPU, -1 where there is none.
            ("kind", "u32", 1), ("parent", "i32", 1), ("gpu_instance", "u32", 1), ("compute_instance", "u32", 1),
            ("name", "text", 96), ("uuid", "text", 96), ("pci", "text", 32),
            ("lost", "u32", 1), ("mig_mode", "u32", 1), ("mig_supported", "u32", 1), ("performance_state", "u32", 1),
            ("memory_total", "u64", 1), ("memory_used", "u64", 1), ("memory_reserved", "u64", 1),
            ("utilization", "u32", 1), ("memory_utilization", "u32", 1), ("temperature", "u32", 1), ("power_limit_mw", "u32", 1),
            ("clock_sm_mhz", "u32", 1), ("clock_memory_mhz", "u32", 1), ("reasons", "u64", 1), ("event_types", "u64", 1),
            ("fabric_state", "u32", 1), ("fabric_status", "u32", 1),
            # Energy is base + power x time since; sequence is odd while these are being changed.
            ("sequence", "u32", 1), ("wave", "u32", 1), ("energy_base_mj", "f64", 1), ("power_mw", "f64", 1),
            ("wave_mw", "f64", 1), ("wave_ns", "u64", 1), ("since_ns", "u64", 1),
            ("field_count", "u32", 1), ("process_count", "u32", 1),
            ("fields", "Field", FIELDS), ("processes", "Process", PROCESSES),
        ),
    ),
    (
        "State",
        (
            ("magic", "u32", 1), ("version", "u32", 1), ("size", "u64", 1), ("init_code", "u32", 1), ("gpu_count", "u32", 1),
            ("cuda_version", "i32", 1), ("unused", "u32", 1), ("driver", "text", 80), ("library", "text", 80),
            ("rules", "Rule", RULES), ("events", "Event", EVENTS), ("event_count", "u64", 1),
            ("callers", "Caller", CALLERS), ("gpus", "Gpu", DEVICES),
        ),
    ),
)  # fmt: skip

_TYPES: dict[str, tuple[Any, str]] = {
    "i32": (ctypes.c_int32, "int32_t"), "u32": (ctypes.c_uint32, "uint32_t"), "u64": (ctypes.c_uint64, "uint64_t"),
    "f64": (ctypes.c_double, "double"), "text": (ctypes.c_char, "char"),
}  # fmt: skip


def _structures() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, rows in _TABLES:
        members: list[tuple[str, Any]] = []
        for member, kind, length in rows:
            base = made.get(kind) or _TYPES[kind][0]
            members.append((member, base * length if length > 1 else base))
        made[name] = type(name, (ctypes.Structure,), {"_fields_": members})
    return made


STRUCTURES: dict[str, Any] = _structures()
"""The ctypes structure of each table by its name; ``State`` is the whole file."""


def header() -> str:
    """The C header: types, limits, numbers of functions, and assertions that C lays everything out as Python does."""
    lines = [
        "#include <stddef.h>",
        "#include <stdint.h>",
        f"#define MAGIC {MAGIC}u",
        f"#define VERSION {VERSION}u",
        f"#define DEVICES {DEVICES}",
        f"#define RULES {RULES}",
        f"#define FIELDS {FIELDS}",
        f"#define PROCESSES {PROCESSES}",
        f"#define EVENTS {EVENTS}",
        f"#define CALLERS {CALLERS}",
        "enum function {",
        *(f"    F_{name}," for name in FUNCTIONS),
        "};",
    ]
    for name, rows in _TABLES:
        lines.append("typedef struct {")
        for member, kind, length in rows:
            lines.append(
                f"    {_TYPES[kind][1] if kind in _TYPES else kind} {member}{f'[{length}]' if length > 1 else ''};"
            )
        lines.append(f"}} {name};")
        structure = STRUCTURES[name]
        lines.append(f'_Static_assert(sizeof({name}) == {ctypes.sizeof(structure)}, "{name}");')
        for member, _, _ in rows:
            offset = getattr(structure, member).offset
            lines.append(f'_Static_assert(offsetof({name}, {member}) == {offset}, "{name}.{member}");')
    return "\n".join(lines) + "\n"
