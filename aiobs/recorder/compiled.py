"""The compiled core of the hot path, where there is one that fits; else the same is done in pure Python.

``AIOBS_PURE=1`` keeps it out. An installation that had no compiler has none, and works alike, only slower.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from aiobs.recorder import layout as at

_FACE_VERSION = 2
"""What this side relies on in the core; see ``native/core.h``."""
_LAYOUT = (_FACE_VERSION, at.VERSION, at.CONTROL, at.HEAD_BYTES, at.CELL_BYTES, at.AREA_ENTRIES, at.STEP_ENTRY.size)


def _load() -> Any:
    # Where threads run without the GIL, the core's order of writes would be nobody's promise.
    if os.environ.get("AIOBS_PURE") == "1" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    try:
        found = import_module("aiobs.recorder._core")
    except ImportError:
        return None
    return found if found.LAYOUT == _LAYOUT else None


core: Any = _load()
"""The module ``aiobs.recorder._core``, or None."""


def core_name() -> str:
    """``"compiled"`` or ``"pure"``: which of the two this process records with."""
    return "pure" if core is None else "compiled"
