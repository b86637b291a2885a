"""The small verbs of the public face: event, log, trace."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.recorder import layout as at
from aiobs.recorder.around import current
from aiobs.recorder.generators import drive, drive_async
from aiobs.recorder.hot import thread
from aiobs.recorder.opening import span
from aiobs.recorder.rest import write_event
from aiobs.recorder.schema import OWN_SCOPE, family, plain
from aiobs.recorder.state import state, wake

F = TypeVar("F", bound=Callable[..., Any])
LOG_FAMILY = "aiobs.log"


def is_recording() -> bool:
    """Whether this process has an open flight record."""
    return state.flight is not None


def event(name: str, /, **attributes: Any) -> None:
    """Note that something happened, as an event of the innermost open span (else of the process)."""
    if state.flight is None and state.sleeping is not None:
        wake()
    owner = current()
    if owner is not None and state.flight is not None:
        write_event(owner, name, attributes)


def log(values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
    """Log numbers such as ``loss`` or ``learning_rate``: a gauge ``aiobs.train.<name>`` each, and an attribute of
    the step they were logged in.

    Values are numbers, or 0-dimensional tensors and arrays, which are read at once: for a tensor on a GPU that
    waits for the GPU, as printing it would. What is no number is left out, counted.
    """
    flight = state.flight or (wake() if state.sleeping is not None else None)
    if flight is None:
        return
    try:
        numbers: dict[str, float] = {}
        for key, value in {**(values or {}), **more}.items():
            number = plain(value, 64)
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                numbers[key] = float(number)
            else:
                flight.add(at.UNRECORDED)
        if not numbers:
            return
        steps = thread.steps
        aux = 0
        if steps is not None and (steps.open or steps.number):
            # After the optimizer step, and with no later phase begun, the loss is still that of the last step.
            aux = steps.number + 1 if steps.open else steps.number
            steps.set_all({names.SCALAR_PREFIX + key: value for key, value in numbers.items()})
        owner = current()
        trace, identity = (0, 0), 0
        if owner is not None:
            trace = int.from_bytes(owner.trace_id[:8], "big"), int.from_bytes(owner.trace_id[8:], "big")
            identity = int.from_bytes(owner.span_id, "big")
        schema, payload = family(LOG_FAMILY, 1, OWN_SCOPE, "", flight).encode(numbers, flight)
        flight.write(at.SCALARS, 0, at.NO_SLOT, schema, trace, identity, 0, thread.number, monotonic_ns(), aux, 0, payload)  # fmt: skip
    except Exception as error:
        flight.add(at.UNRECORDED)
        swallow("recorder.log", error)


@overload
def trace(function: F, /) -> F: ...
@overload
def trace(name: str | None = None, /, **attributes: Any) -> Callable[[F], F]: ...
def trace(name: Any = None, /, **attributes: Any) -> Any:
    """Decorate a function so that each call is a span: sync, async, generator or async generator.

    A generator's span covers its whole life, and is current while the generator's own code runs.

    Args:
        name: span name; the function's qualified name by default.
        attributes: attributes of every such span.
    """
    if callable(name):
        return _traced(name, name.__qualname__, {})

    def decorate(function: F) -> F:
        traced: F = _traced(function, name or function.__qualname__, attributes)
        return traced

    return decorate


def _traced(function: Any, name: str, attributes: dict[str, Any]) -> Any:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def traced_async_generator(*args: Any, **kwargs: Any) -> Any:
            async for item in drive_async(span(name, **attributes), function(*args, **kwargs)):
                yield item

        return traced_async_generator
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def traced_coroutine(*args: Any, **kwargs: Any) -> Any:
            with span(name, **attributes):
                return await function(*args, **kwargs)

        return traced_coroutine
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def traced_generator(*args: Any, **kwargs: Any) -> Any:
            return (yield from drive(span(name, **attributes), function(*args, **kwargs)))

        return traced_generator

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with span(name, **attributes):
            return function(*args, **kwargs)

    return traced
