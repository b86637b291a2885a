"""Making spans: :func:`span` for ``with``, :func:`start_span` for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiobs.guard import swallow
from aiobs.propagation import Context
from aiobs.recorder import layout as at
from aiobs.recorder.compiled import core
from aiobs.recorder.flight import Flight
from aiobs.recorder.hot import current_span
from aiobs.recorder.schema import OWN_SCOPE, Family, families, family
from aiobs.recorder.spans import Span
from aiobs.recorder.state import on_new_flight, state, wake

_new = object.__new__


class _Nothing(Span):
    """What stands in for a span where nothing is recorded: one that has already ended."""

    __slots__ = ()


NOTHING = _Nothing.__new__(_Nothing)
NOTHING._flight = None
NOTHING._trace, NOTHING.id, NOTHING._slot = (0, 1, 0, ""), 1, None
NOTHING.attributes = {}


def _open(name: object, attributes: dict[str, Any]) -> Span:
    """The span of that name, where the flight record or the family has yet to be made."""
    flight = state.flight or (wake() if state.sleeping is not None else None)
    if flight is None or flight.mm[at.CONTROL] & at.CONTROL_OFF:
        return NOTHING
    it = Span.__new__(Span)
    it._flight = flight
    it.attributes = attributes
    it._slot = it._rest = it._token = it.token = None
    try:
        it._family = family(str(name), 1, OWN_SCOPE, "", flight)
    except Exception as error:
        swallow("recorder.span.open", error)
        return NOTHING
    return it


def _span(name: str, /, **attributes: Any) -> Span:
    """A span, to be used with ``with``; see :class:`Span`.

    Args:
        name: low-cardinality name; put what varies into attributes.
        attributes: str, bool, int, float or lists of these.
    """
    flight = state.flight
    if flight is None:
        return NOTHING if state.sleeping is None else _open(name, attributes)
    if flight.mm[64] & 1:
        return NOTHING
    try:
        known = families[name]
    except (KeyError, TypeError):
        return _open(name, attributes)
    it = _new(Span)
    it._flight = flight
    it._family = known
    it.attributes = attributes
    it._slot = it._rest = it._token = None
    return it


if TYPE_CHECKING or core is None:
    span = _span
else:
    core.wire(
        state=state, flight_type=Flight, family_type=Family, span_type=Span, nothing=NOTHING, current=current_span,
        families=families, open_slowly=_open, swallow=swallow,
    )  # fmt: skip
    on_new_flight(core.reset)
    span = core.span


def start_span(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    kind: int = 1,
    parent: Context | None = None,
    root: bool = False,
    links: Iterable[Context] = (),
    start_ns: int | None = None,
    scope: str = OWN_SCOPE,
    version: str = "",
    current: bool = False,
) -> Span:
    """Begin a span now (or at `start_ns`, monotonic) and return it; the caller calls :meth:`Span.end`, or uses it
    with ``with``.

    Args:
        kind: OTLP span kind, 1 internal to 5 consumer.
        parent: its parent; by default the innermost open span. `root`: it begins a trace of its own.
        current: make it the parent of spans begun from now on in this context, until ``__exit__``.
    """
    flight = state.flight or (wake() if state.sleeping is not None else None)
    if flight is None or flight.mm[at.CONTROL] & at.CONTROL_OFF:
        return NOTHING
    it = Span.__new__(Span)
    it._flight = flight
    it._slot = it._rest = it._token = it.token = None
    it.attributes = dict(attributes or {})
    try:
        it._family = family(name, kind, scope, version, flight)
        for link in links:
            it.link(link)
        it._begin(parent, root, start_ns)
        if current:
            it._token = current_span.set(it)
        it.token = state.foreign()[0] if state.foreign is not None else None
    except Exception as error:
        it._flight = None
        swallow("recorder.start_span", error)
    return it
