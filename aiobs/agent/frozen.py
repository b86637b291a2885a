"""Spans and steps as JSON, for what the agent keeps in its journal across its own death."""

from __future__ import annotations

from typing import Any

from aiobs.agent.steps import Phase, Step
from aiobs.telemetry import Extra, Link, Row, Shape, SpanEvent

_shapes: dict[str, Shape] = {}


def freeze_event(event: SpanEvent) -> list[Any]:
    return [event.name, event.time_ns, dict(event.attributes)]


def thaw_event(state: list[Any]) -> SpanEvent:
    return SpanEvent(*state)


def freeze_row(row: Row) -> list[Any]:
    shape, trace, span, parent, start, end, values, extra = row
    key = [shape.name, shape.kind, shape.scope, shape.version, list(shape.keys), shape.types]
    return [key, trace.hex(), span.hex(), parent.hex(), start, end, list(values), extra and _freeze_extra(extra)]


def thaw_row(state: list[Any]) -> Row:
    key, trace, span, parent, start, end, values, extra = state
    return (
        _shape(key), bytes.fromhex(trace), bytes.fromhex(span), bytes.fromhex(parent), start, end, tuple(values),
        extra and _thaw_extra(extra),
    )  # fmt: skip


def _shape(key: list[Any]) -> Shape:
    name, kind, scope, version, keys, types = key
    text = repr(key)
    if text not in _shapes:
        if len(_shapes) > 2000:
            _shapes.clear()
        _shapes[text] = Shape(name, kind, scope, version, tuple(keys), types)
    return _shapes[text]


def _freeze_extra(extra: Extra) -> list[Any]:
    links = [[link.trace_id.hex(), link.span_id.hex(), dict(link.attributes)] for link in extra.links]
    events = [freeze_event(event) for event in extra.events]
    return [extra.status, extra.message, extra.attributes, events, links, extra.trace_state, extra.flags]


def _thaw_extra(state: list[Any]) -> Extra:
    status, message, attributes, events, links, trace_state, flags = state
    return Extra(
        status, message, attributes, [thaw_event(event) for event in events],
        [Link(bytes.fromhex(trace), bytes.fromhex(span), more) for trace, span, more in links], trace_state, flags,
    )  # fmt: skip


def freeze_step(step: Step) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(step, name) for name in _PLAIN}
    found.update({name: getattr(step, name).hex() for name in _IDS})
    found["phases"] = [[it.name, it.parent, it.start, it.end, it.open, it.gpu_s] for it in step.phases]
    found["rows"] = [freeze_row(row) for row in step.rows]
    found["events"] = [[span.hex(), freeze_event(event)] for span, event in step.events]
    return found


def thaw_step(state: dict[str, Any]) -> Step:
    found: dict[str, Any] = {name: state[name] for name in _PLAIN}
    found.update({name: bytes.fromhex(state[name]) for name in _IDS})
    found["phases"] = [Phase(*phase) for phase in state["phases"]]
    found["rows"] = [thaw_row(row) for row in state["rows"]]
    found["events"] = [(bytes.fromhex(span), thaw_event(event)) for span, event in state["events"]]
    return Step(**found)


_PLAIN = (
    "number",
    "thread",
    "start",
    "end",
    "begun",
    "skipped",
    "failed",
    "truncated",
    "message",
    "attributes",
    "reason",
    "dropped",
)
_IDS = ("trace", "span", "root", "said_trace", "said_span")
