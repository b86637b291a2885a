"""One recorded process: its records turned into spans, logs and metrics, and what of them has to wait."""

from __future__ import annotations

from typing import Any

from aiobs import names
from aiobs.agent.announce import Announcer
from aiobs.agent.decode import ENTRANCES, Decoder, Found
from aiobs.agent.exits import Exit
from aiobs.agent.frozen import freeze_row, thaw_row
from aiobs.agent.keep import LAST
from aiobs.agent.metrics import Metrics
from aiobs.agent.openings import OpenStep, exit_attributes, open_step, out_of_memory, split_at_death
from aiobs.agent.rank_steps import Host, RankSteps
from aiobs.agent.reader import FlightReader
from aiobs.agent.serving_metrics import ServingMetrics, counts_requests
from aiobs.agent.steps import Step, parse_step
from aiobs.agent.unfinished import Unfinished, with_error_type
from aiobs.agent.untrusted import DamagedError
from aiobs.agent.work import Work
from aiobs.clock import monotonic_ns
from aiobs.device.base import FATAL
from aiobs.recorder import layout
from aiobs.telemetry import STATUS_ERROR, Exemplar, Extra, Link, LogRow, Resource, Row, SpanEvent

_CHECKPOINTS = {
    names.SPAN_CHECKPOINT_SAVE: "save",
    names.SPAN_CHECKPOINT_LOAD: "load",
    names.SPAN_CHECKPOINT_WRITE: "write",
}
_SPECIAL = {names.SPAN_PROCESS, names.SPAN_ENGINE_STEP, *_CHECKPOINTS}
_SEVERITY_ERROR = 17


class Process:
    """See the module's text.

    Attributes:
        rows, logs: what is ready to be exported. `resource`: the newest.
        metrics, steps, work: of this process. `offset`: wall - monotonic clock, ns.
        ended: it is gone, and everything of it is in `rows`, `logs` and `metrics`.
    """

    def __init__(self, reader: FlightReader, key: str, host: Host, work: Work, started_after_ns: int) -> None:
        self.rows: list[Row] = []
        self.logs: list[LogRow] = []
        self.resource: Resource = reader.resource
        self.route = reader.route
        self.ended = False
        self.offset = reader.wall_offset
        self._decoder = Decoder(reader.table, reader.wall_offset, reader.pid, _SPECIAL, counts_requests)
        self.metrics = Metrics(reader.created_ns + reader.wall_offset)
        self.steps = RankSteps(key, reader.route, self.metrics, host)
        self._serving = ServingMetrics(self.metrics)
        self._host = host
        self._unfinished = Unfinished()
        self._announcer = Announcer(started_after_ns)
        self._own_span: Row | None = None
        self._last_ns = reader.created_ns + reader.wall_offset
        self._lost_said = reader.lost
        self._reader = reader
        self.work = work
        work.metrics, work.look = self.metrics, self._look
        work.described(self.resource)

    # -- records -------------------------------------------------------------------------------------------
    def drain(self, limit: int, *, final: bool = False) -> int:
        """Take in new records, about `limit` at most; returns how many. Raises RecordError."""
        reader, rows, taken = self._reader, self.rows, 0
        while taken < limit:
            cells = reader.read(limit - taken, final=final)
            if cells is None:
                break
            self.route = self.steps.route = reader.route
            if reader.resource is not self.resource:
                self.resource = reader.resource
                self.work.described(self.resource)
            first = len(rows)
            self._decoder.decode(cells, rows, self._within, self._take)
            self._unfinished.complete(rows, first)
            if self.work.gpus:
                self.work.see(rows[first:])
            if len(rows) > first:
                self._last_ns = max(self._last_ns, rows[-1][5])
            taken += cells.count
        reader.damaged = self._decoder.damaged
        if reader.lost > self._lost_said:
            self._say_lost(reader.lost - self._lost_said)
            self._lost_said = reader.lost
        return taken

    def _say_lost(self, count: int) -> None:
        body = f"{count} records were overwritten before the agent read them"
        event = SpanEvent(names.EVENT_RECORDS_LOST, self._last_ns, {names.RECORDS_COUNT: count})
        self.logs.append(LogRow(event.time_ns, body, event.name, 13, event.attributes))

    def _within(self, row: Row) -> None:
        self.steps.span(row, row[4] - self.offset)

    def _take(self, found: Found) -> None:
        self._last_ns = max(self._last_ns, max(found.start, found.end) + self.offset)
        if found.kind == layout.SPAN:
            self._span(found)
        elif found.kind == layout.EVENT:
            self._event(found)
        elif found.kind == layout.SCALARS:
            self._scalars(found)
        elif found.kind == layout.ARRIVALS:
            self._arrivals(found)
        else:
            self._step(found)

    def _row(self, found: Found, end_ns: int) -> Row:
        shape, values, extra = found.shape, found.values, found.extra or Extra()
        if found.thread != self._reader.pid:
            extra.attributes.setdefault(names.THREAD_ID, found.thread)
        if not found.parent and shape.kind in ENTRANCES and self.route.run_trace and self.route.run_span:
            # A request is a trace of its own; this is the way from it to the run that served it.
            extra.links.append(Link(bytes.fromhex(self.route.run_trace), bytes.fromhex(self.route.run_span)))
        for event in extra.events:
            self._log_event(event, found.trace, found.span)
        row = (shape, found.trace, found.span, found.parent, found.start + self.offset, end_ns, values, extra)
        return with_error_type(self._unfinished.completed(row))

    def _span(self, found: Found) -> None:
        row: Row | None = self._row(found, found.end + self.offset)
        assert row is not None
        name = found.shape.name
        exported = self._serving.see(row)
        if found.flags & layout.FLAG_IN_STEP:
            self.steps.span(row, found.start)
            row = None
        elif not exported:
            row = None
        elif name == names.SPAN_PROCESS and found.shape.scope == "aiobs":
            if self._own_span is not None:
                self.rows.append(self._own_span)
            self._own_span, row = row, None
        if name in _CHECKPOINTS and found.shape.scope == "aiobs":
            self._checkpoint(found, _CHECKPOINTS[name], shown=row is not None)
        if row is not None:
            if row[0].kind in ENTRANCES:
                extra = row[7]
                assert extra is not None
                extra.attributes.update(self.work.usage.attributes(found.start, found.end))
            self.rows.append(row)

    def _checkpoint(self, found: Found, operation: str, *, shown: bool) -> None:
        seconds = (found.end - found.start) / 1e9
        attributes = ((names.CHECKPOINT_OPERATION, operation),)
        self.metrics.observe(names.CHECKPOINT_DURATION, seconds, attributes)
        if shown:
            exemplar = Exemplar(seconds, found.end + self.offset, found.trace, found.span)
            self.metrics.exemplify(names.CHECKPOINT_DURATION, exemplar, attributes)

    def _event(self, found: Found) -> None:
        event = SpanEvent(found.shape.name, found.start + self.offset, found.all_attributes())
        if found.flags & layout.FLAG_IN_STEP:
            self.steps.event(found.trace, found.span, event, found.start)
        elif found.span != bytes(8):
            self._unfinished.event(found.span, event)
        self._log_event(event, found.trace, found.span)

    @property
    def last_ns(self) -> int:
        """When the last thing happened that its record tells of (monotonic ns)."""
        return self._last_ns - self.offset

    def log_news(self) -> None:
        """Log what happened to the process from outside: to its GPUs, or its control group."""
        for event in self.work.news:
            fatal = event.attributes.get(names.GPU_EVENT_SEVERITY) == FATAL
            body = event.attributes.get(names.GPU_EVENT_TEXT)
            self.logs.append(
                LogRow(event.time_ns, body, event.name, _SEVERITY_ERROR if fatal else 13, event.attributes)
            )
        self.work.news.clear()

    def _log_event(self, event: SpanEvent, trace: bytes, span: bytes) -> None:
        failed = event.name == names.EVENT_EXCEPTION
        body = event.attributes.get(names.EXCEPTION_MESSAGE) if failed else None
        severity = _SEVERITY_ERROR if failed else 9
        ids = (trace, span) if any(trace) and any(span) else (b"", b"")
        self.logs.append(LogRow(event.time_ns, body, event.name, severity, event.attributes, *ids))

    def _scalars(self, found: Found) -> None:
        values = {names.SCALAR_PREFIX + key: value for key, value in found.all_attributes().items()}
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self.metrics.set(name, float(value), found.start + self.offset)
        if found.aux:
            self.steps.scalars(found.aux - 1, values)
        elif found.span != bytes(8):
            self._unfinished.attributes(found.span, values)

    def _arrivals(self, found: Found) -> None:
        try:
            self.steps.arrivals(found.thread, found.end, found.payload)
        except DamagedError:
            self._decoder.damaged += 1
            return
        if found.aux:
            self.metrics.add(names.GPU_ARRIVALS_DROPPED, found.aux)

    def _step(self, found: Found) -> None:
        try:
            step = parse_step(
                found.aux, found.thread, found.start, found.end, found.flags, found.payload, self._reader.table.phases
            )
        except DamagedError:
            self._decoder.damaged += 1
            return
        self._whole_step(step)

    def _whole_step(self, step: Step, *, finished: bool = True) -> None:
        self.work.step(step.thread, step.start, step.end)
        self.steps.step(step, monotonic_ns(), finished=finished)

    # -- while it runs -------------------------------------------------------------------------------------
    def announce(self, now: int) -> None:
        """Announce the spans that are open for long, and export held steps whose time is up (monotonic ns).

        Raises:
            RecordError: the record cannot be read any more.
        """
        if self.ended:
            return
        self.steps.release(now)
        if self._announcer.due(now):
            marks, areas = self._look()
            self._serving.see_open(marks, now + self.offset)
            self.rows += self._announcer.spans(marks, self.offset, now)
            for area in areas:
                self._announce_step(area, now)

    def _look(self) -> tuple[list[Found], list[OpenStep]]:
        """The spans and steps that are open now. Raises RecordError."""
        found = (self._decoder.whole(mark.raw, mark=True) for mark in self._reader.open_slots())
        return [mark for mark in found if mark is not None], self._reader.open_steps()

    def _announce_step(self, area: OpenStep, now: int) -> None:
        """Announce a step that hangs; it will be kept then, so that the announcement has its parent."""
        step = open_step(area, now, self._reader.table.phases)
        since = max([phase.start if phase.open else phase.end for phase in step.phases], default=area.start)
        if self._announcer.hangs(now - since, self.steps.median_ns()):
            self.steps.foretell(step)
            self.rows += self._announcer.step(step, self.offset)

    # -- its end -------------------------------------------------------------------------------------------
    def end(self, ending: Exit) -> None:
        """It is gone: take in the rest, and finish what it left open. Raises RecordError."""
        reader = self._reader
        while self.drain(1 << 20, final=True):
            pass
        died = ending.time_ns + self.offset if ending.time_ns else self._last_ns
        died = max(died, self._last_ns)
        lack = out_of_memory(ending, died)
        for area in reader.open_steps():
            finished, rest = split_at_death(area, died - self.offset, ending, reader.table.phases)
            if finished is not None:
                self._whole_step(finished)
            if rest is not None:
                rest.events += [(b"", lack)] if lack is not None else []
                self._whole_step(rest, finished=False)
        recorded = reader.finished_spans()
        homeless: list[Row] = []
        for mark in reader.open_slots():
            found = self._decoder.whole(mark.raw, mark=True)
            if found is None:
                reader.damaged += 1
            elif int.from_bytes(found.span, "big") not in recorded:
                homeless += self._end_span(found, died, ending)
        self._serving.see_open((), died)
        homeless += self.steps.end(LAST)
        self._take_home(homeless)
        if self._own_span is not None:
            self.rows.append(self._with_exit(self._own_span, died, ending))
            self._own_span = None
        self.ended = True

    def _take_home(self, rows: list[Row]) -> None:
        """Export spans that began within a step there is no trace of (it turned out to be none, or is long
        forgotten): under the process instead."""
        inside = {row[2] for row in rows}
        if self._own_span is not None:
            trace, home = self._own_span[1:3]
        else:
            trace, home = bytes.fromhex(self.route.run_trace), bytes.fromhex(self.route.run_span)
        for shape, own_trace, span, parent, start, end, values, extra in rows:
            above = parent if parent in inside else home
            self.rows.append((shape, trace or own_trace, span, above, start, end, values, extra))

    def _end_span(self, found: Found, died: int, ending: Exit) -> list[Row]:
        """Finish an open span at the time of death; returns it where it belongs to a step that is forgotten."""
        row = self._row(found, max(died, found.start + self.offset))
        extra = row[7]
        assert extra is not None
        extra.attributes.update({names.TRUNCATED: True, **exit_attributes(ending)})
        if not ending.clean and extra.status != STATUS_ERROR:
            extra.status, extra.message = STATUS_ERROR, str(ending)
        self._serving.see(row, cut=ending.kind)
        if found.shape.name == names.SPAN_PROCESS and found.shape.scope == "aiobs" and self._own_span is None:
            self._own_span = row
            return []
        if found.flags & layout.FLAG_IN_STEP:
            return self.steps.truncated(row, found.start)
        self.rows.append(row)
        return []

    def _with_exit(self, row: Row, died: int, ending: Exit) -> Row:
        """The process span, telling how the process ended."""
        extra = row[7] or Extra()
        attributes = exit_attributes(ending)
        event = SpanEvent(names.EVENT_PROCESS_EXIT, died, attributes)
        extra.attributes.update(attributes)
        extra.events.append(event)
        lack = out_of_memory(ending, died)
        if lack is not None and ending.limit_bytes:  # else it tells no more than the cause does
            extra.events.append(lack)
        if self._reader.lost:
            extra.events.append(SpanEvent(names.EVENT_RECORDS_LOST, died, {names.RECORDS_COUNT: self._reader.lost}))
        if not ending.clean and extra.status != STATUS_ERROR:
            extra.status, extra.message = STATUS_ERROR, str(ending)
        severity = 9 if ending.clean else _SEVERITY_ERROR
        self.logs.append(LogRow(died, f"process {ending}", event.name, severity, attributes, row[1], row[2]))
        return (*row[:7], extra)

    # -- across the agent's death --------------------------------------------------------------------------
    def counts(self) -> dict[str, int]:
        """left_out: spans within steps not kept, and engine steps; overflow: given up because too much waited."""
        return {
            "left_out": self.steps.left_out + self._serving.left_out,
            "overflow": self.steps.overflow + self._unfinished.overflow,
        }

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state; what is ready must have been taken."""
        return {
            "steps": self.steps.snapshot(),
            "unfinished": self._unfinished.snapshot(),
            "metrics": self.metrics.snapshot(),
            "serving": self._serving.snapshot(),
            "announced": self._announcer.snapshot(),
            "own_span": self._own_span and freeze_row(self._own_span),
            "last": self._last_ns,
            "damaged": self._decoder.damaged,
            "lost": self._lost_said,
            "parts": self._reader.parts(),
            "work": self.work.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `snapshot` gave."""
        self.metrics = self.steps.metrics = self.work.metrics = Metrics.restored(state["metrics"])
        self._serving.restore(state["serving"], self.metrics)
        self.steps.restore(state["steps"], monotonic_ns())
        self._unfinished.restore(state["unfinished"])
        self._announcer.restore(state["announced"])
        self._own_span = state["own_span"] and thaw_row(state["own_span"])
        self._last_ns, self._decoder.damaged = state["last"], state["damaged"]
        self._lost_said = state["lost"]
        self._reader.restore_parts(state["parts"])
        if "work" in state:
            self.work.restore(state["work"])
