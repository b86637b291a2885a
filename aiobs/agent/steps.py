"""A training step: from its record to the spans of its trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aiobs import ids, names
from aiobs.agent.plans import TIME_LIMIT
from aiobs.agent.untrusted import DamagedError, clean_attributes, parse_object
from aiobs.recorder import layout
from aiobs.telemetry import STATUS_ERROR, Extra, Link, Route, Row, Shape, SpanEvent, Value

TRACE_SPANS = 1900
"""Spans a step's trace may have, over all ranks."""
PHASE_SPANS = 200
"""Spans of phases one rank may have in a step."""
CROWD = 250
"""From so many ranks on a rank contributes one span with its phases as attributes, save the extremes."""


@dataclass(slots=True)
class Phase:
    """One entry of a step. `parent`: index of the enclosing entry, -1: none. Times in monotonic ns. `gpu_s`: how long
    it took on the GPU, where that is known."""

    name: str
    parent: int
    start: int
    end: int
    open: bool = False
    gpu_s: float | None = None

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / 1e9


@dataclass(slots=True)
class Step:
    """One rank's step. Times in monotonic ns.

    Attributes:
        begun: phases begun in all; more than `phases` has when there were more than fit.
        truncated: the process died in it.
        message: of the error status.
        trace, span, root: its ids, and rank 0's span (b"" on rank 0 itself).
        said_trace, said_span: the ids that spans begun within it took it to have. They differ where a second
            process or thread counts steps of the same rank, or where the numbers began again.
        rows, events: finished spans within it, and events of spans that are not among them.
        dropped: spans within it that there was no room for.
        reason: why it is kept, "" while nothing speaks for it. `fate`: held, recent, due (to be kept, with what the
            GPU did still to come), kept or gone.
    """

    number: int
    thread: int
    start: int
    end: int
    phases: list[Phase]
    begun: int = 0
    skipped: bool = False
    failed: bool = False
    truncated: bool = False
    message: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    trace: bytes = b""
    span: bytes = b""
    root: bytes = b""
    said_trace: bytes = b""
    said_span: bytes = b""
    rows: list[Row] = field(default_factory=list)
    events: list[tuple[bytes, SpanEvent]] = field(default_factory=list)
    dropped: int = 0
    reason: str = ""
    fate: str = "held"

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / 1e9

    def identify(self, route: Route, series: str) -> None:
        """Compute the ids; `series` is "" for the first count of steps of this rank."""
        run, attempt = route.run_id + series, route.attempt
        self.trace = ids.step_trace_id(run, attempt, self.number)
        self.span = ids.step_span_id(run, attempt, self.number, route.rank)
        self.root = b"" if route.rank == 0 else ids.step_span_id(run, attempt, self.number, 0)
        self.said_trace = ids.step_trace_id(route.run_id, attempt, self.number)
        self.said_span = ids.step_span_id(route.run_id, attempt, self.number, route.rank)

    def totals(self) -> dict[str, float]:
        """Seconds by phase name, nested ones under their own name too, and under ``other`` what no phase covers."""
        found: dict[str, float] = {}
        covered = 0.0
        for phase in self.phases:
            found[phase.name] = found.get(phase.name, 0.0) + phase.seconds
            if phase.parent < 0:
                covered += phase.seconds
        found[names.PHASE_OTHER] = found.get(names.PHASE_OTHER, 0.0) + max(0.0, self.seconds - covered)
        return found


def parse_step(
    number: int, thread: int, start: int, end: int, flags: int, payload: bytes, phases: Mapping[int, str]
) -> Step:
    """The step of a STEP record.

    Raises:
        DamagedError: the payload cannot be one.
    """
    if len(payload) < layout.STEP_COUNT.size or end < start:
        raise DamagedError("a step without entries")
    count, _, begun = layout.STEP_COUNT.unpack_from(payload)
    behind = layout.STEP_COUNT.size + count * layout.STEP_ENTRY.size
    if len(payload) < behind:
        raise DamagedError("a step with fewer entries than it says")
    entries = list(layout.STEP_ENTRY.iter_unpack(payload[layout.STEP_COUNT.size : behind]))
    step = Step(number, thread, start, end, read_phases(entries, start, end, phases), min(begun, TIME_LIMIT))
    step.skipped = bool(flags & layout.FLAG_SKIPPED)
    step.failed = bool(flags & layout.FLAG_ERROR)
    if flags & layout.FLAG_EXTRA:
        extra, _ = parse_object(payload[behind:])
        step.attributes = clean_attributes(extra.get("attributes"))
        step.message = str(extra.get("message") or "")
    if names.ERROR_TYPE in step.attributes:
        step.failed = True
    return step


def read_phases(
    entries: list[tuple[int, int, int, int, int]], start: int, end: int, known: Mapping[int, str], first: int = 0
) -> list[Phase]:
    """Phases from entries, kept within the step's time; `first`: index of the first of them in its area."""
    found: list[Phase] = []
    for i, (phase, parent, _, begun, ended) in enumerate(entries):
        parent = parent - first if first <= parent < first + i else -1
        begun = min(max(begun, start), end)
        done = min(max(ended or end, begun), end)
        found.append(Phase(known.get(phase, f"phase {phase}"), parent, begun, done, open=not ended))
    return found


@lru_cache(maxsize=4096)
def _phase_shape(name: str) -> Shape:
    return Shape(name, keys=(names.STEP,), types="q")


@lru_cache(maxsize=4096)
def _many_shape(name: str) -> Shape:
    return Shape(name, keys=(names.STEP, names.PHASE_COUNT, names.PHASE_TOTAL), types="qqd")


_SUMMARIES_FROM = 1 << 16
"""Index of the first summary span of a step: beyond every entry's, whose ids spans within it may name."""
_STEP_KEYS = (names.STEP, names.STEP_KEPT, names.STEP_OTHER, names.STEP_MICROBATCHES)
_STEP_SHAPES = {name: Shape(name, keys=_STEP_KEYS, types="qsdq") for name in (names.SPAN_STEP, names.SPAN_RANK_STEP)}


def span_budget(route: Route) -> int:
    """Spans one rank may contribute to a step's trace."""
    return max(8, TRACE_SPANS // max(1, route.world_size))


def step_rows(step: Step, route: Route, offset: int, *, partial: bool, whole: bool = True) -> list[Row]:
    """The spans of a kept step: the step's own, its phases', and what happened within.

    Args:
        offset: wall - monotonic clock, ns.
        whole: with spans for phases and what happened within; else the phases' durations are attributes.
    """
    totals = step.totals()
    extra = Extra(attributes=dict(step.attributes))
    if step.failed:
        extra.status, extra.message = STATUS_ERROR, step.message
    if route.run_trace and route.run_span:
        extra.links.append(Link(bytes.fromhex(route.run_trace), bytes.fromhex(route.run_span)))
    slowest = max(totals, key=lambda name: totals[name])
    left_out = max(0, step.begun - len(step.phases))
    rows: list[Row] = []
    if whole:
        rows, summarised = _phase_rows(step, offset, min(PHASE_SPANS, span_budget(route) - 1))
        left_out += summarised
        rows += _within(step, rows)
    else:
        extra.attributes.update({names.PHASE_PREFIX + name: seconds for name, seconds in totals.items()})
    notes: dict[str, Value] = {
        names.STEP_SLOWEST_PHASE: slowest if totals[slowest] > 0 else "",
        names.STEP_SKIPPED: step.skipped,
        names.TRUNCATED: step.truncated,
        names.STEP_PARTIAL: partial,
        names.STEP_PHASES_DROPPED: left_out,
        names.STEP_SPANS_DROPPED: step.dropped + (0 if whole else len(step.rows)),
    }
    extra.attributes.update({name: value for name, value in notes.items() if value})
    microbatches = sum(1 for phase in step.phases if phase.name == names.PHASE_BACKWARD and phase.parent < 0)
    shape = _STEP_SHAPES[names.SPAN_RANK_STEP if step.root else names.SPAN_STEP]
    values = (step.number, step.reason, totals[names.PHASE_OTHER], microbatches)
    rows.insert(0, (shape, step.trace, step.span, step.root, step.start + offset, step.end + offset, values, extra))
    if step.events:
        _attach(rows, step)
    return rows


def _within(step: Step, phases: list[Row]) -> list[Row]:
    """Spans that ran within the step, under the ids it really has; none is left without its parent."""
    known = {row[2] for row in phases} | {row[2] for row in step.rows}
    found: list[Row] = []
    for shape, _, span, parent, start, end, values, extra in step.rows:
        found.append((shape, step.trace, span, _real(step, parent, len(phases), known), start, end, values, extra))
    return found


def _real(step: Step, parent: bytes, phases: int, known: set[bytes]) -> bytes:
    if parent in known:
        return parent
    if step.said_span != step.span:
        for index in range(phases):
            if ids.phase_span_id(step.said_span, index) == parent:
                return ids.phase_span_id(step.span, index)
    return step.span


def late_row(step: Step, row: Row) -> Row:
    """A span that ran within a step and ended after the step was exported."""
    shape, _, span, parent, start, end, values, extra = row
    if step.said_span != step.span:
        parent = _real(step, parent, len(step.phases), set())
    return shape, step.trace, span, parent, start, end, values, extra


def _attach(rows: list[Row], step: Step) -> None:
    """Put events where they happened; those of spans that are not among `rows` go to the step's own span."""
    places = {row[2]: index for index, row in enumerate(rows)}
    for span, event in step.events:
        index = places.get(_real(step, span, len(step.phases), set(places)), 0)
        rows[index] = with_event(rows[index], event)


def with_event(row: Row, event: SpanEvent) -> Row:
    """`row` with one more event; an exception on a failed span also names its type."""
    extra = row[7] or Extra()
    extra.events.append(event)
    return (*row[:7], extra)


def _phase_rows(step: Step, offset: int, limit: int) -> tuple[list[Row], int]:
    """Spans of the phases, and how many have none of their own but are part of a summary."""
    phases = step.phases
    single = len(phases)
    if single > limit:
        single = max(0, limit - len({phase.name for phase in phases}))
    rows: list[Row] = []
    spans: list[bytes] = []
    for index, phase in enumerate(phases[:single]):
        span = ids.phase_span_id(step.span, index)
        spans.append(span)
        above = spans[phase.parent] if phase.parent >= 0 else step.span
        extra = Extra(attributes={names.TRUNCATED: True}) if phase.open and step.truncated else None
        if phase.gpu_s is not None:
            extra = Extra(attributes={names.GPU_DURATION: phase.gpu_s})
        rows.append((_phase_shape(phase.name), step.trace, span, above, phase.start + offset, phase.end + offset, (step.number,), extra))  # fmt: skip
    many: dict[str, list[Phase]] = {}
    for phase in phases[single:]:
        many.setdefault(phase.name, []).append(phase)
    for number, (name, found) in enumerate(many.items()):
        span = ids.phase_span_id(step.span, _SUMMARIES_FROM + number)
        start, end = min(phase.start for phase in found), max(phase.end for phase in found)
        values = (step.number, len(found), sum(phase.seconds for phase in found))
        rows.append((_many_shape(name), step.trace, span, step.span, start + offset, end + offset, values, None))
    return rows, sum(len(found) for found in many.values())
