"""What the agent hands to exporters: spans, logs and metrics as plain, cheap values.

A span is a :data:`Row`, a tuple, because there are hundreds of thousands a second. What all spans of one kind
share (name, scope, attribute keys and types) sits once in its :class:`Shape`, which is also where an encoder
keeps the code it made for that shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union

Value = Union[str, bool, int, float, bytes, None, "list[Any]", "tuple[Any, ...]", "dict[str, Any]"]
"""An attribute value as OTLP has it."""

INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5
STATUS_UNSET, STATUS_OK, STATUS_ERROR = 0, 1, 2

LINK_REMOTE_FLAGS = 0x300
"""OTLP span/link flags: "is remote" is known (0x100) and true (0x200)."""


@dataclass(frozen=True, eq=False)
class Shape:
    """What spans of one kind share; compared by identity.

    Attributes:
        name: span name.
        kind: OTLP span kind, 1 to 5.
        scope: instrumentation scope's name; `version`: its version, "" where unknown.
        keys: attribute keys, in the order of a row's values.
        types: a letter for each key: q int, d float, b bool, s str, j any other OTLP value.
        encoders: where each exporter keeps what it generated for this shape, by exporter name.
    """

    name: str
    kind: int = INTERNAL
    scope: str = "aiobs"
    version: str = ""
    keys: tuple[str, ...] = ()
    types: str = ""
    encoders: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class SpanEvent:
    """An event of a span; `time_ns` is Unix time."""

    name: str
    time_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(slots=True)
class Link:
    """A link to another span (ids as 16 and 8 bytes)."""

    trace_id: bytes
    span_id: bytes
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(slots=True)
class Extra:
    """What few spans have. `flags` are OTLP span flags above the 8 W3C bits."""

    status: int = STATUS_UNSET
    message: str = ""
    attributes: dict[str, Value] = field(default_factory=dict)
    events: list[SpanEvent] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    trace_state: str = ""
    flags: int = 0


Row = tuple[Shape, bytes, bytes, bytes, int, int, "tuple[Any, ...]", "Extra | None"]
"""A span: shape, trace id (16 bytes), span id (8), parent span id (8, or b"" for a root), start and end (Unix
ns), values of the shape's keys, and :class:`Extra` or None."""


@dataclass(frozen=True, eq=False)
class Resource:
    """Who produced the telemetry; compared by identity, one object per process and version of it."""

    attributes: Mapping[str, Value]


@dataclass(slots=True)
class LogRow:
    """A log record or, with `event_name`, an event. Times in Unix ns; ids empty where there is no span."""

    time_ns: int
    body: Value
    event_name: str = ""
    severity: int = 9
    attributes: Mapping[str, Value] = field(default_factory=dict)
    trace_id: bytes = b""
    span_id: bytes = b""


@dataclass(slots=True)
class Exemplar:
    """A measured value and the span it was measured in."""

    value: float
    time_ns: int
    trace_id: bytes
    span_id: bytes


@dataclass(slots=True)
class Point:
    """One number of a sum or gauge. Times in Unix ns."""

    attributes: Mapping[str, Value]
    start_ns: int
    time_ns: int
    value: float | int


@dataclass(slots=True)
class HistogramPoint:
    """One explicit-bucket histogram; ``len(counts) == len(bounds) + 1``."""

    attributes: Mapping[str, Value]
    start_ns: int
    time_ns: int
    count: int
    sum: float
    min: float
    max: float
    bounds: tuple[float, ...]
    counts: list[int]
    exemplars: list[Exemplar] = field(default_factory=list)


@dataclass(slots=True)
class Metric:
    """A metric and its points, always cumulative.

    `kind` is ``sum`` (monotonic counter), ``updown`` (non-monotonic sum), ``gauge`` or ``histogram``.
    """

    name: str
    unit: str
    description: str
    kind: str
    points: list[Point] | list[HistogramPoint]


@dataclass(slots=True)
class Batch:
    """What one turn of the agent hands to the exporters of one route."""

    spans: list[tuple[Resource, list[Row]]] = field(default_factory=list)
    logs: list[tuple[Resource, list[LogRow]]] = field(default_factory=list)
    metrics: list[tuple[Resource, list[Metric]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.spans or self.logs or self.metrics)

    def span_count(self) -> int:
        """Spans in the batch."""
        return sum(len(rows) for _, rows in self.spans)


@dataclass(frozen=True)
class Route:
    """Where a process wants its telemetry to go, and which run it belongs to; written into its flight record.

    The agent makes one set of exporters for each distinct (`run_id`, `exporters`, `run_dir`, `environment`).

    Attributes:
        run_id, run_name, attempt, rank, world_size: the job; a process outside any job has rank 0 of 1.
        run_trace, run_span: hex ids of the run's root span, "" where there is no run.
        exporters: names of the ``aiobs_exporter`` entry points.
        run_dir: the run folder, "" where none is written.
        environment: the ``OTEL_*`` and ``AIOBS_*`` variables the exporters may read.
        keep_first, keep_every, keep_slow_ratio: the rules by which steps are kept (see ``aiobs.agent.keep``).
    """

    run_id: str
    run_name: str = ""
    attempt: int = 0
    rank: int = 0
    world_size: int = 1
    run_trace: str = ""
    run_span: str = ""
    exporters: tuple[str, ...] = ("jsonl",)
    run_dir: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    keep_first: int = 10
    keep_every: int = 10
    keep_slow_ratio: float = 1.5
