"""Shapes of a model's inputs as a short text, made once for each combination."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

INPUTS_SHOWN: Final = 8
_KEPT: Final = 512


class Shapes:
    """Texts like ``ids[1,16] mask[1,16]``; at most INPUTS_SHOWN inputs of 8 dimensions each."""

    def __init__(self) -> None:
        self._texts: dict[tuple[Any, ...], str] = {}

    def text(self, named: Iterable[tuple[str, Any]]) -> str:
        """The text for inputs and their names ("" for none); what has no shape is left out."""
        key = tuple([(name, shape_of(value)) for name, value in islice(named, INPUTS_SHOWN)])
        text = self._texts.get(key)
        if text is None:
            shown = [f"{name[:32]}[{','.join(map(str, shape[:8]))}]" for name, shape in key if shape is not None]
            text = " ".join(shown)
            if len(self._texts) < _KEPT:
                self._texts[key] = text
        return text

    def of_tensors(self, values: tuple[Any, ...]) -> str:
        """The text for positional inputs, of which tensors alone have shapes: ``[1,16] [1]``."""
        key = tuple([getattr(value, "shape", None) for value in values])
        text = self._texts.get(key)
        if text is None:
            text = self.text([("", value) for value in values])
            if len(self._texts) < _KEPT:
                self._texts[key] = text
        return text


def shape_of(value: Any) -> tuple[Any, ...] | None:
    """Shape of an array, a tensor or an OrtValue; a list counts by its length; None for other things."""
    shape: Any = getattr(value, "shape", None)
    if callable(shape):
        shape = shape()
    if shape is None:
        return (len(value),) if isinstance(value, (list, tuple)) else None
    return tuple(shape)
