"""What one reading of eight fake GPUs costs: by aiobs, and by pynvml's own functions for the same values.

Both make their calls to the same fake library, so what differs is what Python does around them: structures made
once against structures made for every call. Rounds of both sides take turns in one process.
Run: python tests/bench/bench_readings.py
No figure here says what a real driver takes.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side import median, options, table

from aiobs.device.base import FAST, SLOW
from aiobs.device.fake.build import build
from aiobs.device.fake.gpu import ALL_LINKS
from aiobs.device.fake.state import FakeGpus
from aiobs.device.nvml import NvmlLibrary, open_library
from aiobs.device.nvml_fields import MOST_LINKS

GPUS = 8
WHOLE = {FAST: (82, 74, 76, 269, 270, 271), SLOW: (3, 4, 31, 142, 143, 144, 145, 94, 197, 198, 230)}
LINKS = (138, 139, 161, 162, 163)


def prepare(folder: Path) -> FakeGpus:
    """Eight GPUs that answer all there is to read."""
    ctypes.CDLL(str(build(folder)))
    gpus = FakeGpus.create(folder, GPUS)
    os.environ["AIOBS_FAKE_GPU"] = str(gpus.path)
    for gpu in gpus.gpus:
        for number in (*WHOLE[FAST], *WHOLE[SLOW]):
            gpu.set_field(number, 1)
        for number in LINKS:
            gpu.set_field(number, 1, scope=ALL_LINKS)
        for link in range(MOST_LINKS):
            gpu.set_field(165, 1, scope=link)
    return gpus


def by_pynvml(nvml: Any, handle: Any, group: str) -> dict[Any, float]:
    """The same values, as pynvml is used everywhere."""
    fast = [83, 186, *WHOLE[FAST]]
    slow = [*WHOLE[SLOW], *((number, ALL_LINKS) for number in LINKS), *((165, link) for link in range(MOST_LINKS))]
    values: dict[Any, float] = {}
    for field in nvml.nvmlDeviceGetFieldValues(handle, fast if group == FAST else slow):
        if field.nvmlReturn == 0:
            values[field.fieldId, field.scopeId] = field.value.ullVal
    if group == FAST:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
        values["used"], values["total"] = memory.used, memory.total
        rates = nvml.nvmlDeviceGetUtilizationRates(handle)
        values["gpu"], values["memory"] = rates.gpu, rates.memory
        values["temperature"] = nvml.nvmlDeviceGetTemperature(handle, 0)
        values["sm"] = nvml.nvmlDeviceGetClockInfo(handle, 1)
        values["clock"] = nvml.nvmlDeviceGetClockInfo(handle, 2)
        values["state"] = nvml.nvmlDeviceGetPerformanceState(handle)
        values["reasons"] = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    else:
        fabric = nvml.c_nvmlGpuFabricInfoV_t()
        nvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(fabric))
        values["fabric"] = fabric.state
    return values


def timed(work: Callable[[], object]) -> float:
    """Microseconds of one call."""
    begin = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin) / 1e3


def measure(rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        gpus = prepare(Path(temporary))
        import pynvml

        library = open_library()
        assert isinstance(library, NvmlLibrary)
        devices = library.devices()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(GPUS)]
        found = []
        for group in (FAST, SLOW):
            for device in devices:
                device.read(group)
            before = sum(gpus.calls().values())
            values = sum(len(device.read(group).values) for device in devices)
            calls = sum(gpus.calls().values()) - before
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(timed(lambda group=group: [device.read(group) for device in devices]))  # type: ignore[misc]
                theirs.append(timed(lambda group=group: [by_pynvml(pynvml, handle, group) for handle in handles]))  # type: ignore[misc]
            found.append(
                {
                    "group": group, "values": values, "driver_calls": calls, "aiobs_us": median(ours),
                    "pynvml_us": median(theirs), "ratio": median([a / b for a, b in zip(ours, theirs, strict=True)]),
                }
            )  # fmt: skip
        library.close()
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(__doc__).parse_args(arguments)
    found = measure(20 if given.quick else 500)
    if given.json:
        print(json.dumps(found))
        return
    rows = [
        [row["group"], str(row["values"]), str(row["driver_calls"]), f"{row['aiobs_us']:.0f} µs", f"{row['pynvml_us']:.0f} µs", f"{row['ratio']:.2f}"]
        for row in found
    ]  # fmt: skip
    print(
        table("One reading of 8 fake GPUs", ["group", "values", "driver calls", "aiobs", "pynvml alone", "ratio"], rows)
    )


if __name__ == "__main__":
    main()
