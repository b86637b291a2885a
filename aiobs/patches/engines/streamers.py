"""Streamers of Transformers: where they were made is where the request is that a thread of its own will answer.

A server makes the streamer while it answers a request, and runs ``generate()`` in a new thread, which knows nothing
of that. The streamer is what both have in common.
"""

from __future__ import annotations

from contextvars import Context, copy_context
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.recorder.hot import current_span
from aiobs.serving import current_request
from aiobs.wrapping import Live

_made: WeakKeyDictionary[Any, tuple[Context, int]] = WeakKeyDictionary()


class StreamersPatch(EnginePatch):
    """``TextStreamer`` and what is derived from it."""

    def place(self) -> None:
        self.put(import_module("transformers.generation.streamers").TextStreamer, "__init__", self._init)

    def _init(self, original: Any, live: Live) -> Any:
        def __init__(self_: Any, *args: Any, **kwargs: Any) -> None:
            original(self_, *args, **kwargs)
            if live and is_recorded() and (current_request() is not None or current_span.get() is not None):
                try:
                    _made[self_] = copy_context(), monotonic_ns()
                except Exception as error:
                    self.remove()
                    swallow("patches.transformers.streamers", error)

        return __init__


def made_in(streamer: Any) -> tuple[Context | None, int]:
    """Context in which `streamer` was made and when (monotonic ns), if it matters; it is told once."""
    try:
        return _made.pop(streamer, (None, 0))
    except TypeError:
        return None, 0  # a streamer that cannot be hashed or referred to weakly
