"""Encoded attributes that are remembered, because most values (a step number, a phase, a path) come again.

One memory for each attribute key and type, shared by all shapes: the seven spans of a step carry one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Sized)

_VALUES, _LENGTH, _COLUMNS = 256, 256, 1024
"""Values of a column, bytes of a value, and columns that are remembered: some 60 MiB at the very worst."""
TYPES: dict[str, type] = {"q": int, "b": bool, "s": str}
"""Types of values that are worth remembering, by their letter in ``Shape.types``."""


class Columns(Generic[T]):
    """The memories of one encoder.

    Args:
        encoder: for an attribute key, what encodes its values.
    """

    def __init__(self, encoder: Callable[[str], Callable[[Any], T]]) -> None:
        self._encoder = encoder
        self._columns: dict[tuple[str, str], tuple[Callable[[Any], T | None], Callable[[Any], T]]] = {}

    def get(self, key: str, letter: str) -> tuple[Callable[[Any], T | None], Callable[[Any], T]]:
        """What looks a value up (None where it is new) and what encodes a new one."""
        known = self._columns.get((key, letter))
        if known is None:
            if len(self._columns) >= _COLUMNS:
                self._columns.clear()
            known = self._columns[key, letter] = self._column(key, TYPES[letter])
        return known

    def _column(self, key: str, expected: type) -> tuple[Callable[[Any], T | None], Callable[[Any], T]]:
        encode = self._encoder(key)
        seen: dict[Any, T] = {}

        def make(value: Any) -> T:
            made = encode(value)
            # The type matters because 1, 1.0 and True are one dictionary key.
            if type(value) is expected and len(made) < _LENGTH:
                if len(seen) >= _VALUES:
                    seen.clear()
                seen[value] = made
            return made

        return seen.get, make
