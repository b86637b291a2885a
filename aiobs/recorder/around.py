"""What surrounds the running code: the innermost span of ours, phase of a step, or span of OpenTelemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aiobs.propagation import Context
from aiobs.recorder.hot import current_span, thread
from aiobs.recorder.state import state

if TYPE_CHECKING:
    from aiobs.recorder.spans import Span


def innermost() -> Span | Context | None:
    """The innermost thing open here: span of ours, phase of a step in this thread, OpenTelemetry's span."""
    entered: Span | None = current_span.get()
    found: Span | Context | None = entered
    steps = thread.steps
    token: object = None
    if entered is not None and entered._flight is None:
        found = entered.context
    elif steps is not None and steps.open and (entered is None or entered.start_ns < steps.start_ns):
        found, token = cast("Context", steps.context()), steps.token
    elif entered is not None:
        token = entered.token
    if state.foreign is not None:
        now, theirs = state.foreign()
        if theirs is not None and (found is None or now is not token):
            return cast("Span | Context", theirs)
    return found


def current() -> Context | None:
    """Context of the innermost open span, ours or OpenTelemetry's, of this thread or task; else the process's."""
    found = innermost()
    if found is None or isinstance(found, Context):
        return found or state.ambient
    return found.context


def current_native() -> tuple[Context, object] | None:
    """Context of our innermost open span or phase and the token OpenTelemetry had when it began, or None."""
    found: Span | None = current_span.get()
    steps = thread.steps
    if steps is not None and steps.open and (found is None or found.start_ns < steps.start_ns):
        return steps.context(), steps.token
    return (found.context, found.token) if found is not None and found._flight is not None else None
