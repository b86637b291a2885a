"""From flight records to telemetry: one :class:`Assembler` for each route (one run, one set of exporters).

A turn of the agent, for each route::

    for reader in readers:
        assembler.add(reader)                        # reads what is new, from reader.position on
    if a process is gone:
        assembler.process_ended(reader, ending)      # drains the rest, closes what was open
    batch = assembler.take(now)                      # hand to the exporters
    journal.append(cursors={r.key: r.position ...}, pending=assembler.snapshot())
    reader.commit(reader.position)

After a crash of the agent: ``Assembler(route).restore(pending)``, readers opened again with
``reader.position = cursor``; every span then comes out exactly once. :meth:`Assembler.process_ended` is called
for **every** process, also one that ended well: until then its ``process`` span and last step are held back.
A reader whose file turns out damaged (RecordError) is handed to :meth:`Assembler.abandon`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiobs.agent.attribution import Attribution
from aiobs.agent.crowd import Crowd
from aiobs.agent.exits import Exit
from aiobs.agent.keep import LOCAL, REQUESTED, Wanted
from aiobs.agent.process import Process
from aiobs.agent.rank_steps import RankSteps
from aiobs.agent.reader import FlightReader
from aiobs.agent.rendezvous import Rendezvous
from aiobs.agent.step_metrics import show_step
from aiobs.agent.steps import CROWD, Step, step_rows
from aiobs.clock import monotonic_ns
from aiobs.errors import RecordError
from aiobs.telemetry import Batch, Route, Row

STARTED_AFTER_S = 2.0
RECORDS_A_TURN = 1 << 16
METRICS_NS = 10_000_000_000


class Assembler:
    """See the module's text."""

    def __init__(
        self, route: Route, clock: Callable[[], int] = monotonic_ns, attribution: Attribution | None = None
    ) -> None:
        """`route` is any of the route's processes'; `clock` gives monotonic ns; `attribution` knows the GPUs."""
        self._clock = clock
        self._attribution = attribution or Attribution(1.0, clock)
        self._started_after_ns = int(_started_after_s(route) * 1e9)
        self._processes: dict[str, Process] = {}
        self._past: dict[str, dict[str, Any]] = {}
        self._owners: dict[str, list[Any]] = {}
        self._crowd = Crowd(self._export)
        self._counts = {"left_out": 0, "overflow": 0}
        self._metrics_at = 0
        self.wanted = Wanted()
        self.rendezvous: Rendezvous | None = None
        """Where other hosts of the run can be asked for their part of a step; None where there is no such place."""

    # -- what the agent's loop calls -----------------------------------------------------------------------
    def add(self, reader: FlightReader, limit: int = RECORDS_A_TURN) -> int:
        """Take in new records of a process, about `limit` at most; returns how many.

        Raises:
            RecordError: the file was cut short or cannot be read.
        """
        return self._process(reader).drain(limit)

    def may_end(self, reader: FlightReader, ending: Exit) -> bool:
        """Whether all is known that is to be told of a process that is gone; to be asked again soon where not."""
        process = self._process(reader)
        return process.work.may_end(ending.time_ns or process.last_ns)

    def process_ended(self, reader: FlightReader, ending: Exit) -> None:
        """A process is gone: take in the rest of its record and finish what it left open. Raises RecordError."""
        self._process(reader).end(ending)

    def abandon(self, reader: FlightReader) -> None:
        """The record of a process cannot be read on: let out what was read of it, expect no more."""
        process = self._process(reader)
        process.rows += process.steps.end("last")
        process.ended = True

    def request(self, step_from: int, step_to: int) -> None:
        """Keep the steps numbered `step_from` to `step_to`, both included, also those of the recent past."""
        self.wanted.request(step_from, step_to)
        for process in list(self._processes.values()):
            process.steps.recall_numbers(step_from, step_to)

    def take(self, now_ns: int, *, metrics: bool | None = None) -> Batch:
        """What is ready to be exported.

        Args:
            now_ns: Unix ns.
            metrics: with the metrics of all processes; by default every 10 s. Those of a process that has ended
                come with its last spans in any case.
        """
        if metrics is None:
            metrics = now_ns - self._metrics_at >= METRICS_NS
        if metrics:
            self._metrics_at = now_ns
        if self.rendezvous is not None:
            for trace, reason in self.rendezvous.hear():
                self._keep(trace, reason)
        batch = Batch()
        now = self._clock()
        live = {key for key, process in self._processes.items() if process.steps.counted and not process.ended}
        self._crowd.flush(live)
        for key, process in list(self._processes.items()):
            try:
                process.announce(now)
            except RecordError:
                pass  # the next read says so too, to those who deal with it
            rows = process.work.through(process.rows, final=process.ended)
            process.rows = []
            if rows:
                batch.spans.append((process.resource, rows))
            process.log_news()
            if process.logs:
                batch.logs.append((process.resource, process.logs))
                process.logs = []
            if process.metrics.changed and (metrics or process.ended):
                batch.metrics.append((process.resource, process.metrics.collect(now_ns)))
            if process.ended and not self._wanted_later(process):
                self._drop(key)
        return batch

    def _wanted_later(self, process: Process) -> bool:
        """Whether ranks that still run may have a reason to keep recent steps of one that has ended."""
        others = (other for other in self._processes.values() if other is not process and not other.ended)
        return process.steps.has_recent() and any(other.steps.counted for other in others)

    def _drop(self, key: str) -> None:
        process = self._processes.pop(key)
        process.steps.gone()
        self._attribution.leave(process.work)
        for name, count in process.counts().items():
            self._counts[name] += count

    def counts(self) -> dict[str, int]:
        """Spans not exported: `left_out` within steps not kept, `overflow` given up because too much waited."""
        total = dict(self._counts)
        for process in self._processes.values():
            for name, count in process.counts().items():
                total[name] += count
        return total

    # -- across the agent's death --------------------------------------------------------------------------
    def snapshot(self) -> dict[str, Any]:
        """JSON-able state, to be called after :meth:`take`."""
        live = {key: process.snapshot() for key, process in self._processes.items() if not process.ended}
        return {
            "processes": {**self._past, **live},
            "wanted": self.wanted.snapshot(),
            "owners": self._owners,
            "crowd": self._crowd.snapshot(),
            "counts": self._counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `snapshot` gave, before any record is added."""
        self._past = dict(state["processes"])
        self.wanted.restore(state["wanted"])
        self._owners = dict(state["owners"])
        self._crowd.restore(state["crowd"])
        self._counts = dict(state["counts"])

    # -- what processes share ------------------------------------------------------------------------------
    def _process(self, reader: FlightReader) -> Process:
        key = f"{reader.key}@{reader.created_ns}"
        process = self._processes.get(key)
        if process is None:
            work = self._attribution.enter(reader, key)
            process = self._processes[key] = Process(reader, key, self, work, self._started_after_ns)
            past = self._past.pop(key, None)
            if past is not None:
                process.restore(past)
        return process

    def series(self, route: Route, key: str, thread: int, number: int, *, ahead: bool = False) -> str:
        """See :class:`aiobs.agent.rank_steps.Host`.

        The first count of steps of a rank has the ids every rank computes; a second process or thread counting
        for the same rank, or a count that begins again, gets ids of its own: equally begun ones are equal on
        all ranks.
        """
        known = self._owners.setdefault(f"{route.attempt}/{route.rank}", [])
        place = next((i for i, owner in enumerate(known) if owner[:2] == [key, thread]), len(known))
        owner: list[Any] = known[place] if place < len(known) else [key, thread, -1, 0]
        _, _, newest, again = owner
        again += number <= newest
        if not ahead:
            owner[2:] = [number, again]
            if place == len(known):
                known.append(owner)
        return f"#{place}.{again}" if place or again else ""

    def keep_everywhere(self, trace: bytes, reason: str) -> None:
        """See :class:`aiobs.agent.rank_steps.Host`."""
        if self._keep(trace, reason) and self.rendezvous is not None:
            self.rendezvous.tell(trace, reason)

    def _keep(self, trace: bytes, reason: str) -> bool:
        if self.wanted.reason(trace):
            return False
        self.wanted.want(trace, reason)
        for process in list(self._processes.values()):
            process.steps.recall(trace, reason)
        return True

    def emit(self, steps: RankSteps, step: Step) -> None:
        """See :class:`aiobs.agent.rank_steps.Host`."""
        if steps.route.world_size > CROWD:
            self._crowd.add(steps.key, step)
        else:
            self._export(steps.key, step, True)

    def emit_row(self, steps: RankSteps, row: Row) -> None:
        """See :class:`aiobs.agent.rank_steps.Host`."""
        self._processes[steps.key].rows.append(row)

    def _export(self, key: str, step: Step, whole: bool) -> None:
        process = self._processes.get(key)
        if process is None:
            return
        route = process.route
        partial = step.reason in LOCAL | {REQUESTED} and len(self._host_ranks(route)) < route.world_size
        offset = process.offset
        rows = step_rows(step, route, offset, partial=partial, whole=whole)
        extra = rows[0][7]
        if extra is not None:
            extra.attributes.update(process.work.usage.attributes(step.start, step.end))
        process.rows += rows
        if not step.truncated:
            show_step(process.metrics, step, step.end + offset)

    def _host_ranks(self, route: Route) -> set[str]:
        prefix = f"{route.attempt}/"
        return {rank for rank in self._owners if rank.startswith(prefix)}


def _started_after_s(route: Route) -> float:
    try:
        return max(0.0, float(route.environment.get("AIOBS_STARTED_AFTER", "")))
    except ValueError:
        return STARTED_AFTER_S
