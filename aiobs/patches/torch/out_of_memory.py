"""Out of memory: which memory it was, how much was wanted, what held the rest; told where the error passes by.

The error leaves a phase, a step, a span or the program, which is when it is looked at. It is not kept, since it
holds the very tensors that a program means to be rid of by catching it.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiobs import names, recorder
from aiobs.guard import guarded, swallow
from aiobs.patches.torch import gpu, host_memory, loops, memory
from aiobs.propagation import Context
from aiobs.recorder.hot import thread
from aiobs.recorder.rest import type_name

_PLACE = "patches.torch.out_of_memory"
ERRORS = (RuntimeError, MemoryError)
"""What it may be, for an ``except`` that costs nothing else."""
DEVICE = "device"
SAME_S = 1.0
"""An error of the same identity and text seen again so soon is the same one, on its way out."""
CONSUMERS = 8
SNAPSHOTS = 3
"""Snapshots a process writes at most."""

_ON_DEVICE = re.compile(r"(CUDA|HIP)( error:)? out of memory")
_ON_HOST = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")
_BYTES = re.compile(r"tried to allocate (\d+) bytes")
_SIZE = re.compile(r"(?:Tried to allocate|Unable to allocate) ([\d.]+) (bytes|[KMGT]iB)")
_FREE = re.compile(r"of which ([\d.]+) (bytes|[KMGT]iB) is free")
_GPU = re.compile(r"\bGPU (\d+)\b")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def place_all(_disable: Callable[[], None]) -> list[Callable[[], None]]:
    """Have failing spans and steps looked at."""

    def remove() -> None:
        recorder.state.failing = None

    recorder.state.failing = leaves
    return [remove]


class _Seen(threading.local):
    error: tuple[int, str] = (0, "")
    until = 0.0


_seen = _Seen()
_snapshots = 0


def leaves(error: BaseException, owner: Context | None = None, *, at_end: bool = False) -> None:
    """`error` leaves a phase or a span (`owner`; what is current, by default), or ends the program (`at_end`)."""
    if not isinstance(error, ERRORS):
        return
    try:
        text = str(error)
        device = _is_device(error, text)
        if not device and not isinstance(error, MemoryError) and not _ON_HOST.search(text):
            return
        key, now = (id(error), text), time.monotonic()
        if _seen.error == key and (now < _seen.until or at_end):
            _seen.until = now + SAME_S
            return
        attributes = {names.ERROR_TYPE: type_name(error), **(_on_device(text) if device else _on_host(text))}
        where = owner or recorder.current()
        if where is not None:
            recorder.write_event(where, names.EVENT_OUT_OF_MEMORY, attributes)
        steps = thread.steps
        if steps is not None and steps.open:
            steps.set(names.ERROR_TYPE, type_name(error))
        _seen.error, _seen.until = key, time.monotonic() + SAME_S
    except Exception as fault:
        swallow(_PLACE, fault)


def program_ends() -> None:
    """The program is over; an exception may have ended it that left nothing else of ours."""
    error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if error is not None:
        leaves(error, at_end=True)


def _is_device(error: BaseException, text: str) -> bool:
    from torch import OutOfMemoryError

    return isinstance(error, OutOfMemoryError) or _ON_DEVICE.search(text) is not None


def _size(match: re.Match[str] | None) -> int:
    return round(float(match[1]) * _UNITS[match[2]]) if match else 0


# -- memory of a GPU -------------------------------------------------------------------------------------------
def _on_device(text: str) -> dict[str, Any]:
    number = _GPU.search(text)
    sizes = {names.OOM_REQUESTED: _size(_SIZE.search(text)), names.OOM_FREE: _size(_FREE.search(text))}
    found: dict[str, Any] = {names.OOM_KIND: DEVICE, **{name: size for name, size in sizes.items() if size}}
    if number is not None:
        found[names.OOM_DEVICE] = int(number[1])
    consumers = _held(on_host=False)
    _ask_allocator(found, consumers)
    found[names.OOM_CONSUMERS] = _lines(consumers)
    return found


@guarded(_PLACE)
def _ask_allocator(found: dict[str, Any], consumers: list[tuple[str, int]]) -> None:
    import torch

    cuda: Any = torch.cuda
    if cuda.is_initialized():
        found.update(memory.figures(memory.current_stats()))
        consumers += largest_blocks(cuda.memory_snapshot(), found.get(names.OOM_DEVICE, 0))
        if gpu.side.history:
            found[names.OOM_SNAPSHOT] = _snapshot()


def _snapshot() -> str:
    """Write the allocator's history; returns the file's path, "" where there are enough of them."""
    import torch

    global _snapshots
    if _snapshots >= SNAPSHOTS:
        return ""
    _snapshots += 1
    route = recorder.state.route
    folder = Path(route.run_dir) if route.run_dir else recorder.state.directory
    path = folder / f"out-of-memory-{os.getpid()}-{_snapshots}.pickle"
    folder.mkdir(parents=True, exist_ok=True)
    dump: Any = torch.cuda.memory._dump_snapshot
    dump(str(path))
    return str(path)


def largest_blocks(segments: Iterable[dict[str, Any]], device: int) -> list[tuple[str, int]]:
    """What an allocator's snapshot has in use on a GPU, blocks of one size and origin together, largest first."""
    sizes: Counter[tuple[int, str]] = Counter()
    for segment in segments:
        if segment.get("device", 0) != device:
            continue
        for block in segment["blocks"]:
            if block["state"] == "active_allocated":
                sizes[block["size"], _origin(block.get("frames") or ())] += 1
    found = [(f"block of {size}{f' x{n}' if n > 1 else ''}{origin}", size * n) for (size, origin), n in sizes.items()]
    return sorted(found, key=lambda item: item[1], reverse=True)[:CONSUMERS]


def _origin(frames: Iterable[dict[str, Any]]) -> str:
    """Where the program itself, not PyTorch, asked for a block; known only with a history."""
    for frame in frames:
        name = str(frame.get("filename", ""))
        if name.endswith(".py") and f"{os.sep}torch{os.sep}" not in name:
            return f" from {name}:{frame.get('line', 0)}"
    return ""


# -- memory of the host ----------------------------------------------------------------------------------------
def _on_host(text: str) -> dict[str, Any]:
    exact = _BYTES.search(text)
    requested = int(exact[1]) if exact else _size(_SIZE.search(text))
    found = host_memory.why(requested)
    if requested:
        found[names.OOM_REQUESTED] = requested
    found[names.OOM_CONSUMERS] = _lines([("resident", host_memory.resident_bytes()), *_held(on_host=True)])
    return found


# -- what holds memory -----------------------------------------------------------------------------------------
def _lines(consumers: list[tuple[str, int]]) -> list[str]:
    return [f"{name}: {size}" for name, size in consumers if size]


def _held(*, on_host: bool) -> list[tuple[str, int]]:
    """Bytes of the parameters being trained, their gradients and their optimizers' state."""
    held = {"parameters": 0, "gradients": 0, "optimizer state": 0}
    try:
        for reference in list(loops.models.optimizers.values()):
            optimizer = reference()
            for group in getattr(optimizer, "param_groups", ()):
                for parameter in group["params"]:
                    held["parameters"] += _bytes_of(parameter, on_host)
                    held["gradients"] += _bytes_of(parameter.grad, on_host)
            for state in list(getattr(optimizer, "state", {}).values()):
                held["optimizer state"] += sum(_bytes_of(value, on_host) for value in state.values())
    except Exception as error:
        swallow(_PLACE, error)
    return sorted(held.items(), key=lambda item: item[1], reverse=True)


def _bytes_of(value: Any, on_host: bool) -> int:
    device = getattr(value, "device", None)
    if device is None or (device.type == "cpu") != on_host:
        return 0
    return int(value.numel()) * int(value.element_size())
