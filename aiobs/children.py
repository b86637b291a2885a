"""Child processes continue the trace: ``subprocess`` gives a child the context of the span that starts it.

The context goes into the child's copy of the environment (``TRACEPARENT``, ``TRACESTATE``), never into our own.
Where the caller names an environment, that is what the child gets, untouched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from aiobs import propagation, recorder
from aiobs.guard import swallow
from aiobs.imports import when_imported
from aiobs.settings import Settings
from aiobs.wrapping import Live, replace

PATCH = "subprocess"
"""Its name in the setting ``patches_off``."""
_ENV = 10
"""Place of ``env`` among the positional arguments of ``Popen``, the object itself aside."""

_undo: list[Callable[[], None]] = []


def child_environment(environment: Mapping[str, str] | None = None, /) -> dict[str, str]:
    """A copy of `environment` (``os.environ`` by default) with the context of the innermost open span, for a child
    process that is started otherwise than by ``subprocess`` with its default environment."""
    base = os.environ if environment is None else environment
    context = recorder.current()
    return dict(base) if context is None else propagation.child_environment(context, base)


def install(settings: Settings) -> None:
    """Have ``subprocess`` pass the context on, once it is imported. A second call does nothing."""
    if not _undo and PATCH not in settings.patches_off and "all" not in settings.patches_off:
        _undo.append(when_imported("subprocess", _imported))


def remove() -> None:
    """Leave ``subprocess`` as it was. Safe to call twice."""
    while _undo:
        _undo.pop()()


def _imported(module: ModuleType) -> None:
    _undo.append(replace(module.Popen, "__init__", _popen))


def _popen(original: Any, live: Live) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if live and len(args) <= _ENV and kwargs.get("env") is None:
            try:
                if recorder.current() is not None:
                    kwargs["env"] = child_environment()
            except Exception as error:
                swallow("children.popen", error)
        original(self, *args, **kwargs)

    return __init__
