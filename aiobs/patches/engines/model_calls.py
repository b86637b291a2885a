"""A call of a model that is no inference request of its own: a session's run, a scripted module's call.

Each such call is a span, as long as what surrounds it has few of them: a decoder that runs its model once a token
would otherwise leave a span for each. All are counted on the server's request they belong to. Inside a training
step there are no such spans: what a step is made of is told by its phases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.patches.engines.placing import is_recorded
from aiobs.recorder import NOTHING, span
from aiobs.recorder.hot import current_span, thread
from aiobs.serving import current_request
from aiobs.wrapping import Live, MakeWrapper

SPAN_LIMIT: Final = 64
"""Calls with a span of their own under one parent."""
_PARENTS: Final = 256
"""Parents whose calls are remembered."""
_NONE: Final[Mapping[str, Any]] = {}

_seen: dict[int, int] = {}


def in_training_step() -> bool:
    """Whether this thread is inside a training step."""
    steps = thread.steps
    return steps is not None and bool(steps.open)


def _has_room() -> bool:
    """Whether one more call may be a span here."""
    parent = current_span.get()
    if parent is None:
        return True
    seen = _seen.get(parent.id, 0)
    if seen >= SPAN_LIMIT:
        return False
    if not seen and len(_seen) >= _PARENTS:
        _seen.pop(next(iter(_seen)), None)
    _seen[parent.id] = seen + 1
    return True


class ModelCall:
    """One call of a model, from its making to :meth:`end`."""

    __slots__ = ("_request", "_span", "_start_ns")

    def __init__(self, name: str, attributes: Mapping[str, Any]) -> None:
        self._request = current_request()
        self._start_ns = 0 if self._request is None else monotonic_ns()
        self._span = span(name, **attributes) if _has_room() else NOTHING
        self._span.__enter__()

    def end(self, error: BaseException | None = None) -> None:
        """It returned, or raised `error`."""
        self._span.__exit__(None if error is None else type(error), error, None)
        if self._request is not None:
            facts = self._request.engine
            facts[names.MODEL_CALLS] = facts.get(names.MODEL_CALLS, 0) + 1
            seconds = (monotonic_ns() - self._start_ns) / 1e9
            facts[names.MODEL_CALLS_DURATION] = facts.get(names.MODEL_CALLS_DURATION, 0.0) + seconds


def _never() -> bool:
    return False


def recorded(
    name: str,
    place: str,
    disable: Callable[[], None],
    describe: Callable[[Any, tuple[Any, ...]], Mapping[str, Any]],
    compiling: Callable[[], bool] = _never,
) -> MakeWrapper:
    """Makes wrappers that record each call of a method as :class:`ModelCall`.

    Args:
        name: of the spans. place: dotted name for the log of faults.
        disable: called after a fault of ours, to take the patch out.
        describe: gives the span's attributes, from the object and the positional arguments.
        compiling: whether the call is being traced by a compiler, for which we step aside.
    """

    def make(original: Any, live: Live) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if compiling() or not live or not is_recorded() or in_training_step():
                return original(self, *args, **kwargs)
            begun = None
            try:
                begun = ModelCall(name, describe(self, args))
            except Exception as error:
                disable()
                swallow(place, error)
            if begun is None:
                return original(self, *args, **kwargs)
            failure: BaseException | None = None
            try:
                return original(self, *args, **kwargs)
            except BaseException as error:
                failure = error
                raise
            finally:
                try:
                    begun.end(failure)
                except Exception as error:
                    swallow(place, error)

        return call

    return make
