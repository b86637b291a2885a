"""aiobs shows what AI training and serving code really does: traces that cost next to nothing and outlive the
process that wrote them.

Importing this package only defines names; :func:`init` starts recording.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` would cost every Python under `aiobs run` more than all the rest of aiobs.activation
    from typing import Any

    from aiobs.children import child_environment
    from aiobs.errors import (
        AiobsError,
        ExportError,
        InjectedError,
        NotEnabledError,
        PatchError,
        RecordError,
        SettingError,
    )
    from aiobs.face import phase, step
    from aiobs.identity import VERSION as __version__
    from aiobs.points import point
    from aiobs.propagation import Context
    from aiobs.recorder.around import current
    from aiobs.recorder.opening import span
    from aiobs.recorder.spans import Span
    from aiobs.recorder.verbs import event, log, trace
    from aiobs.runtime import init, shutdown

_HOMES = {
    "AiobsError": "aiobs.errors",
    "Context": "aiobs.propagation",
    "ExportError": "aiobs.errors",
    "InjectedError": "aiobs.errors",
    "NotEnabledError": "aiobs.errors",
    "PatchError": "aiobs.errors",
    "RecordError": "aiobs.errors",
    "SettingError": "aiobs.errors",
    "Span": "aiobs.recorder.spans",
    "child_environment": "aiobs.children",
    "current": "aiobs.recorder.around",
    "event": "aiobs.recorder.verbs",
    "init": "aiobs.runtime",
    "log": "aiobs.recorder.verbs",
    "phase": "aiobs.face",
    "point": "aiobs.points",
    "shutdown": "aiobs.runtime",
    "span": "aiobs.recorder.opening",
    "step": "aiobs.face",
    "trace": "aiobs.recorder.verbs",
}

__all__ = [
    "AiobsError",
    "Context",
    "ExportError",
    "InjectedError",
    "NotEnabledError",
    "PatchError",
    "RecordError",
    "SettingError",
    "Span",
    "__version__",
    "child_environment",
    "current",
    "event",
    "init",
    "log",
    "phase",
    "point",
    "shutdown",
    "span",
    "step",
    "trace",
]


def discover(discover_system: bool = True) -> dict[str, Any]:
    """For ``chaos discover aiobs-sdk``: Chaos Toolkit looks for this name here and nowhere else."""
    from importlib import import_module

    found: dict[str, Any] = import_module("aiobs.chaos.toolkit").discover(discover_system)
    return found


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from aiobs.identity import VERSION

        return VERSION
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'aiobs' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
