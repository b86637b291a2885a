"""The ways out of a route: an exporter and what stands between it and the loss of a span."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from importlib import import_module
from pathlib import Path
from typing import Any

from aiobs.agent.delivery import FAULT, Delivery
from aiobs.agent.spool import Allowance, Lane
from aiobs.errors import ExportError, NotEnabledError, SettingError
from aiobs.guard import logger, say_once
from aiobs.ports import EXPORTER_GROUP, LocalExporter, RemoteExporter
from aiobs.telemetry import Batch, Route

HELD_SPANS = 50_000
"""Spans that wait in memory for a local exporter that cannot write (a full disk); beyond it the oldest go."""

HELD_S = 30.0
"""For so long the turns wait for a local exporter that cannot write; then the others go on without it, and what waits
for it would be lost with the agent."""

FULL = "disk_full"


def create_exporter(name: str, route: Route) -> LocalExporter | RemoteExporter:
    """Make the exporter of that name: one registered as an entry point, else one of ours.

    Raises:
        SettingError: there is none of that name, or its settings cannot be used.
        NotEnabledError: a library it needs is missing.
    """
    from importlib.metadata import entry_points

    for entry in entry_points(group=EXPORTER_GROUP, name=name):
        try:
            factory = entry.load()
        except ImportError as error:
            raise NotEnabledError(f"exporter {name} ({error})", "all") from error
        return factory(route)  # type: ignore[no-any-return]
    if name.isidentifier():
        with contextlib.suppress(ModuleNotFoundError):
            return import_module(f"aiobs.exporters.{name}").create(route)  # type: ignore[no-any-return]
    raise SettingError("AIOBS_EXPORTERS", name, "no such exporter is installed; use jsonl, otlp, console, prometheus or perfetto")  # fmt: skip


class LocalOutlet:
    """A local exporter. What it cannot write waits, in memory, to be tried again with the next batch.

    Attributes (of both kinds of outlets):
        exported: items handed over, by signal.
        dropped: items given up, by reason.
        last_error: why the last try failed, "" after a success.
    """

    def __init__(self, name: str, exporter: LocalExporter, past: Any) -> None:
        """Take back what was written without a commit; `past` is :meth:`state` as the journal has it, or None."""
        self.exported: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.last_error = ""
        self._name, self._exporter = name, exporter
        self._held: deque[Batch] = deque()
        self._failing_since = 0.0
        if past is not None:
            exporter.rewind(past["mark"])
        self._mark = exporter.mark()

    def put(self, batch: Batch) -> None:
        """Take a batch; it is safe once the turn is committed."""
        self._held.append(batch)
        while self._held:
            try:
                self._exporter.write(self._held[0])
            except (ExportError, OSError) as error:
                self._failed(error)
                return
            self._mark = self._exporter.mark()
            self.last_error, self._failing_since = "", 0.0
            self.exported.update(_counts(self._held.popleft()))

    def _failed(self, error: Exception) -> None:
        self.last_error = str(error)
        self._failing_since = self._failing_since or time.monotonic()
        say_once(f"outlet:{self._name}", "aiobs: %s cannot write: %s; up to %d spans wait in memory", self._name, error, HELD_SPANS)  # fmt: skip
        with contextlib.suppress(ExportError, OSError):
            self._exporter.rewind(self._mark)
        while len(self._held) > 1 and self._spans() > HELD_SPANS:
            self.dropped[FULL] += _items(self._held.popleft())

    def give_up(self, batch: Batch) -> None:
        """Count a batch on which the exporter failed for a reason of its own (a fault of ours)."""
        with contextlib.suppress(ValueError):
            self._held.remove(batch)
        self.dropped[FAULT] += _items(batch)
        self._exporter.rewind(self._mark)

    def _spans(self) -> int:
        return sum(batch.span_count() for batch in self._held)

    def state(self) -> Any:
        """What the journal keeps of it."""
        return {"mark": self._mark}

    @property
    def durable(self) -> bool:
        """Whether everything taken would survive the agent, or has waited long enough for it."""
        return not self._held or (self._failing_since > 0 and time.monotonic() - self._failing_since > HELD_S)

    def committed(self) -> None:
        """The turn is in the journal."""

    def waiting(self) -> tuple[int, int]:
        """Items and bytes that wait."""
        return sum(_items(batch) for batch in self._held), 0

    def retry(self) -> None:
        """Try again what could not be written."""
        if self._held:
            self.put(Batch())

    def close(self, timeout_s: float = 0.0) -> None:
        """Finish the files; what still could not be written is lost, counted. `timeout_s` is for remote outlets."""
        del timeout_s
        self.retry()
        if self._held:
            logger.warning(
                "aiobs: %s: %d items could not be written: %s", self._name, self.waiting()[0], self.last_error
            )
            self.dropped[FULL] += self.waiting()[0]
        try:
            self._exporter.close()
        except (ExportError, OSError) as error:
            self._failed(error)


class RemoteOutlet:
    """A remote exporter: every encoded body goes to the spool, a thread of its own sends from there."""

    def __init__(
        self, name: str, exporter: RemoteExporter, folder: Path, allowance: Allowance, past: Any, *, lost: bool
    ) -> None:
        """Go on with what an earlier agent left in `folder`; `lost`: the journal was lost, all of it counts."""
        self._exporter = exporter
        self.lane = Lane(folder, allowance, past["last"] if past else None if lost else 0)
        self.delivery = Delivery(name, exporter, self.lane)
        self.exported = self.delivery.exported

    @property
    def last_error(self) -> str:
        """Why the last try failed, "" after a success."""
        return self.delivery.last_error

    @property
    def dropped(self) -> Counter[str]:
        """Items given up, by reason."""
        return self.lane.dropped + self.delivery.dropped

    def put(self, batch: Batch) -> None:
        """Encode a batch into the spool; it is sent once the turn is committed."""
        for body in self._exporter.encode(batch):
            self.lane.put(body)

    def give_up(self, batch: Batch) -> None:
        """Count a batch on which the exporter failed for a reason of its own (a fault of ours)."""
        self.delivery.dropped[FAULT] += _items(batch)

    def state(self) -> Any:
        """What the journal keeps of it."""
        return {"last": self.lane.last}

    @property
    def durable(self) -> bool:
        """Whether everything taken would survive the agent."""
        return self.lane.durable

    def committed(self) -> None:
        """The turn is in the journal: send."""
        self.lane.commit()

    def waiting(self) -> tuple[int, int]:
        """Items and bytes that wait."""
        return self.lane.items(), self.lane.bytes

    def close(self, timeout_s: float = 0.0) -> None:
        """Stop after the request under way, waiting for it up to `timeout_s`; the rest stays on disk."""
        self.delivery.stop(timeout_s)
        self.lane.close()


Outlet = LocalOutlet | RemoteOutlet


def _counts(batch: Batch) -> Counter[str]:
    return Counter({
        "traces": batch.span_count(),
        "logs": sum(len(rows) for _, rows in batch.logs),
        "metrics": sum(len(one.points) for _, metrics in batch.metrics for one in metrics),
    })  # fmt: skip


def _items(batch: Batch) -> int:
    return sum(_counts(batch).values())


def open_outlet(name: str, route: Route, folder: Path, allowance: Allowance, past: Any, *, lost: bool) -> Outlet:
    """Make the exporter `name` and what goes around it.

    Raises:
        SettingError, NotEnabledError: see :func:`create_exporter`.
        OSError: its files cannot be opened.
    """
    exporter = create_exporter(name, route)
    if isinstance(exporter, LocalExporter):
        return LocalOutlet(name, exporter, past)
    return RemoteOutlet(name, exporter, folder, allowance, past, lost=lost)
