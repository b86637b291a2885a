"""Texts as 64-bit marks: as many columns of texts as there are spans would not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_IDS = 48
"""Characters of trace and span id: as many as OTLP has."""


def marks_of(texts: Sequence[str]) -> Any:
    """A mark for each text, 0 for an empty one; texts alike have the same in every process."""
    import numpy as np

    try:
        letters = np.array(texts, dtype=f"S{_width(texts)}")
    except UnicodeEncodeError:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        letters = np.array(encoded, dtype=f"S{_width(encoded)}")
    words = np.ascontiguousarray(letters).view(np.uint64).reshape(len(texts), -1)
    found = np.zeros(len(texts), np.uint64)
    for place in range(words.shape[1]):
        mixed = (found ^ words[:, place]) * np.uint64(0xBF58476D1CE4E5B9)
        # Where a text has ended it stays as it is: its mark must not depend on how long others are.
        found = np.where(words[:, place] == 0, found, mixed ^ (mixed >> np.uint64(29)))
    return found


def _width(texts: Sequence[Any]) -> int:
    return max(_IDS, -(-max(map(len, texts), default=0) // 8) * 8)
