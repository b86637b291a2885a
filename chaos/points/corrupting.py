"""Wrong values: of the same type, shape and precision as the right one, and always a copy of it."""

from __future__ import annotations

import copy
import math
import sys
from random import Random
from struct import Struct
from typing import Any

_DOUBLE = Struct("<d")


def _library(value: object) -> str:
    """``torch`` or ``numpy`` for their arrays, else ""; neither is imported for it."""
    for name, kind in (("torch", "Tensor"), ("numpy", "ndarray"), ("numpy", "generic")):
        module = sys.modules.get(name)
        if module is not None and isinstance(value, getattr(module, kind)):
            return name
    return ""


def unfit(task: str, value: Any) -> str:
    """Why `value` cannot be corrupted so, "" where it can."""
    library = _library(value)
    if library:
        numel = value.numel() if library == "torch" else value.size
        if not numel:
            return "an empty array has nothing to corrupt"
        if library == "torch" and value.layout is not sys.modules["torch"].strided:
            return f"a tensor of layout {value.layout} cannot be corrupted; use a dense one"
        floating = value.is_floating_point() or value.is_complex() if library == "torch" else value.dtype.kind in "fc"
        if task == "nan":
            return "" if floating else f"dtype {value.dtype} cannot hold NaN; use bitflip"
        return "" if library == "torch" or value.dtype.kind in "fciub" else f"dtype {value.dtype} has no bits to flip"
    if isinstance(value, float) or (task == "bitflip" and isinstance(value, (int, bytes)) and value != b""):
        return ""
    return f"a {type(value).__name__} cannot be corrupted by {task}; give a number, an array or a tensor"


def copy_of(value: Any) -> Any:
    """A copy that what happens to `value` later does not reach; tensors without their graph."""
    library = _library(value)
    if library == "torch":
        return value.detach().clone().requires_grad_(value.requires_grad)
    return value.copy() if library == "numpy" else copy.deepcopy(value)


def nan(value: Any, random: Random) -> Any:
    """`value` with NaN in one element. Gradients pass as through a copy."""
    library = _library(value)
    if not library:
        return math.nan
    if library == "torch":
        changed = value.clone()
        changed.data[_place(tuple(changed.shape), random)] = math.nan
        return changed
    numpy = sys.modules["numpy"]
    changed = numpy.array(value)
    changed[_place(changed.shape, random)] = math.nan
    return _as_given(changed, value)


def bitflip(value: Any, count: int, random: Random) -> Any:
    """`value` with `count` different bits of it flipped, at places chosen by chance."""
    library = _library(value)
    if library == "torch":
        torch = sys.modules["torch"]
        changed = value.clone(memory_format=torch.contiguous_format)
        if changed.dtype is torch.bool:
            changed.data[_place(tuple(changed.shape), random)] ^= True
            return changed
        flat = changed.data.reshape(-1).view(torch.uint8)
        for byte, bit in _bits(flat.numel(), count, random):
            flat[byte] ^= 1 << bit
        return changed
    if library == "numpy":
        numpy = sys.modules["numpy"]
        changed = numpy.array(value, order="C")
        if changed.dtype.kind == "b":
            changed[_place(changed.shape, random)] ^= True
        else:
            flat = changed.reshape(-1).view(numpy.uint8)
            for byte, bit in _bits(flat.size, count, random):
                flat[byte] ^= 1 << bit
        return _as_given(changed, value)
    return _plain(value, count, random)


def _plain(value: Any, count: int, random: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        for bit in random.sample(range(max(8, value.bit_length())), min(count, max(8, value.bit_length()))):
            value ^= 1 << bit
        return value
    content = bytearray(value if isinstance(value, bytes) else _DOUBLE.pack(value))
    for byte, bit in _bits(len(content), count, random):
        content[byte] ^= 1 << bit
    return bytes(content) if isinstance(value, bytes) else _DOUBLE.unpack(content)[0]


def _bits(size: int, count: int, random: Random) -> list[tuple[int, int]]:
    return [divmod(it, 8) for it in random.sample(range(size * 8), min(count, size * 8))]


def _place(shape: tuple[int, ...], random: Random) -> tuple[int, ...]:
    return tuple(random.randrange(size) for size in shape)


def _as_given(changed: Any, value: Any) -> Any:
    """A numpy scalar where one was given."""
    return changed if isinstance(value, sys.modules["numpy"].ndarray) else changed[()]
