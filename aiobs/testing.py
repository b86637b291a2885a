"""For test suites: record a block of code and look at what came out, without an agent, an exporter or a network.

::

    from aiobs.testing import capture

    with capture() as captured:
        handle_request()
    assert captured.span("handle").attributes["status"] == 200
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiobs import names, runtime
from aiobs.agent.assemble import Assembler
from aiobs.agent.exits import EXIT, Exit
from aiobs.agent.reader import FlightReader
from aiobs.clock import wall_ns
from aiobs.recorder import is_recording, layout
from aiobs.telemetry import Link, LogRow, Metric, Row, SpanEvent


@dataclass(frozen=True)
class CapturedSpan:
    """A span as it would be exported; ids as hex ("" for no parent), times in Unix ns."""

    name: str
    kind: int
    scope: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    status: int = 0
    message: str = ""
    events: list[SpanEvent] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Seconds from begin to end."""
        return (self.end_ns - self.start_ns) / 1e9


class Captured:
    """What was recorded; filled when the block ends."""

    def __init__(self) -> None:
        self.spans: list[CapturedSpan] = []
        self.logs: list[LogRow] = []
        self.metrics: list[Metric] = []

    def named(self, name: str) -> list[CapturedSpan]:
        """All spans of that name, in the order they began."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_ns)

    def span(self, name: str) -> CapturedSpan:
        """The only span of that name.

        Raises:
            LookupError: there is none or more than one; the message says what there is.
        """
        found = self.named(name)
        if len(found) != 1:
            there = ", ".join(sorted({span.name for span in self.spans})) or "nothing"
            raise LookupError(f"{len(found)} spans named {name!r}; recorded: {there}")
        return found[0]

    def children(self, parent: CapturedSpan) -> list[CapturedSpan]:
        """The spans whose parent is `parent`, in the order they began."""
        own = (span for span in self.spans if span.parent_id == parent.span_id and span.trace_id == parent.trace_id)
        return sorted(own, key=lambda span: span.start_ns)

    def read(self, records: Path) -> None:
        """Add what is in the flight records of the folder `records`, whose writers are done."""
        paths = sorted(records.glob("*" + layout.SUFFIX))
        readers = [FlightReader(path) for path in paths]
        assemblers: dict[str, Assembler] = {}
        for reader in readers:
            assembler = assemblers.setdefault(reader.route.run_id, Assembler(reader.route))
            while assembler.add(reader):
                pass
        for reader in readers:
            assemblers[reader.route.run_id].process_ended(reader, Exit(EXIT, 0))
        for assembler in assemblers.values():
            batch = assembler.take(wall_ns(), metrics=True)
            for resource, rows in batch.spans:
                self.spans += [_span(row, dict(resource.attributes)) for row in rows]
            self.logs += [log for _, logs in batch.logs for log in logs]
            self.metrics += [metric for _, metrics in batch.metrics for metric in metrics]
        for reader in readers:
            reader.close()


def _span(row: Row, resource: dict[str, Any]) -> CapturedSpan:
    shape, trace, span, parent, start, end, values, extra = row
    attributes = dict(zip(shape.keys, values, strict=True))
    attributes.pop(names.THREAD_ID, None)
    if extra is not None:
        attributes.update(extra.attributes)
    return CapturedSpan(
        shape.name, shape.kind, shape.scope, trace.hex(), span.hex(), parent.hex(), start, end, attributes,
        extra.status if extra else 0, extra.message if extra else "", extra.events if extra else [],
        extra.links if extra else [], resource,
    )  # fmt: skip


@contextmanager
def capture(**settings: Any) -> Generator[Captured]:
    """Record what happens inside the block, in this process and the processes it forks.

    Every step of training is kept, unless `settings` (any of ``aiobs.init``) say otherwise. Not to be used
    where recording is already on.

    Raises:
        RuntimeError: recording is already on in this process.
    """
    if is_recording():
        raise RuntimeError("recording is already on in this process: call aiobs.shutdown() first")
    folder = Path(tempfile.mkdtemp(prefix="aiobs-capture-"))
    captured = Captured()
    try:
        runtime.init(
            **{"keep_every": 1, "exporters": ("jsonl",), **settings, "runtime_dir": str(folder), "agent": "off"}
        )
        try:
            yield captured
        finally:
            runtime.shutdown()
            captured.read(folder / "records")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
