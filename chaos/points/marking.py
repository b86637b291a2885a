"""A hit on the record: the span it happens in says which fault that was, and points to the fault's own span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiobs import names
from aiobs.guard import guarded
from aiobs.propagation import Context
from aiobs.recorder import Span, innermost, write_event
from aiobs.recorder.hot import thread

if TYPE_CHECKING:
    from aiobs.chaos.points.acting import Action


@guarded("points.mark")
def mark(action: Action) -> None:
    """Mark the innermost open span or training step. What kills the process is on disk before it does."""
    order = action.armed.order
    injection = order.id.partition("-")[0]
    attributes = {
        names.FAULT_ID: injection, names.FAULT_KIND: order.kind, names.FAULT_POINT: order.point,
        names.FAULT_TASK: action.term.task, names.FAULT_TRACE_ID: order.trace_id, names.FAULT_SPAN_ID: order.span_id,
    }  # fmt: skip
    around = innermost()
    if isinstance(around, Span):
        around.event(names.EVENT_FAULT_HIT, attributes)
        around.set(names.FAULT_INJECTED, True)
        around.set(names.FAULT_ID, injection)
        if order.trace_id:
            fault = Context(bytes.fromhex(order.trace_id), bytes.fromhex(order.span_id))
            around.link(fault, {names.LINK: names.LINK_FAULT})
    elif around is not None:
        write_event(around, names.EVENT_FAULT_HIT, attributes)
        steps = thread.steps
        if around.in_step and steps is not None and steps.open:
            steps.set_all({names.FAULT_INJECTED: True, names.FAULT_ID: injection})
