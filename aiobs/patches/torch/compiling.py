"""Compilation by ``torch.compile``: a span for each, from PyTorch's own start and end callbacks.

A callback that raises would fail the user's compilation, so nothing passes the guard here. The callbacks run
under a lock of PyTorch's, one compilation at a time, and ``torch._dynamo.reset()`` forgets them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from aiobs import names, recorder
from aiobs.guard import guarded
from aiobs.imports import when_imported
from aiobs.patches.torch.around import Disable
from aiobs.recorder import Span
from aiobs.wrapping import Live, replace

_PLACE = "patches.torch.compiling"


def place_all(disable: Disable) -> list[Callable[[], None]]:
    """Register the callbacks when ``torch._dynamo`` is imported."""
    undo: list[Callable[[], None]] = []

    def arrived(module: ModuleType) -> None:
        undo.extend(_register(module, disable))

    def remove() -> None:
        while undo:
            undo.pop()()

    return [remove, when_imported("torch._dynamo.callback", arrived)]


def _register(module: Any, disable: Disable) -> list[Callable[[], None]]:
    known = module.callback_handler
    running: list[Span] = []

    @guarded(_PLACE, disable)
    def started(call: Any) -> None:
        attributes = {names.COMPILE_TRIGGER: call.callback_trigger.name.lower(), names.COMPILE_ID: str(call.compile_id)}
        running.append(recorder.start_span(names.SPAN_COMPILE, attributes, parent=recorder.state.ambient))

    @guarded(_PLACE, disable)
    def ended(_call: Any) -> None:
        while running:
            running.pop().end()

    def add() -> None:
        if started not in known.start_callbacks:
            known.register_start_callback(started)
            known.register_end_callback(ended)

    def drop() -> None:
        # In place: PyTorch may be going through these lists now.
        for callbacks, ours in ((known.start_callbacks, started), (known.end_callbacks, ended)):
            if ours in callbacks:
                callbacks.remove(ours)

    def clear(original: Any, live: Live) -> Any:
        def clear(self: Any) -> None:
            try:
                original(self)
            finally:
                if live and self is known:
                    add()

        return clear

    add()
    return [drop, replace(type(known), "clear", clear)]
