"""All that happens to the telemetry of one route: assembled from its flight records, put to its exporters."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from aiobs.agent.assemble import Assembler
from aiobs.agent.machine import Machine
from aiobs.agent.outlets import LocalOutlet, Outlet, RemoteOutlet, open_outlet
from aiobs.agent.rendezvous import Rendezvous
from aiobs.agent.routes import metrics_interval_s, route_key, route_state
from aiobs.agent.selfstats import SelfStats, outlet_status
from aiobs.agent.spool import Allowance
from aiobs.errors import ExportError, NotEnabledError, SettingError
from aiobs.guard import say_once, swallow
from aiobs.telemetry import Batch, Route

FALLBACK = "jsonl"
"""Where a run's telemetry goes when an exporter it wants cannot be made."""


class Pipeline:
    """One route in use.

    Attributes:
        outlets: its exporters, by name.
        problems: why exporters could not be made, by name.
        processed: spans that went through.
        counted: what its flight records counted, by the names of :meth:`FlightReader.counters`.
        records: number of flight records in work.
        journaled: whether the journal knows where the exporters began.
    """

    def __init__(
        self, route: Route, spool: Path, allowance: Allowance, version: str, past: dict[str, Any] | None, machine: Machine,
        *, lost: bool,
    ) -> None:  # fmt: skip
        """Open the exporters.

        Args:
            route: of the first record that has it.
            spool: the folder of all spools.
            past: :meth:`state` as the journal has it, None where the route is new to it.
            machine: what is known of GPUs and host.
            lost: the journal was lost.
        """
        self.route, self.key = route, route_key(route)
        self.outlets: dict[str, Outlet] = {}
        self.problems: dict[str, str] = {}
        self._closed: dict[str, dict[str, Any]] = {}
        self.processed = self.records = 0
        self.counted: Counter[str] = Counter()
        self._allowance = allowance
        self._interval_s = metrics_interval_s(route)
        self._metrics_at = time.monotonic() + self._interval_s
        self._stats = SelfStats(version, route.run_id, time.time_ns())
        self.assembler = Assembler(route, attribution=machine.attribution)
        self._machine = machine
        if route.run_dir and route.world_size > 1:
            self.assembler.rendezvous = Rendezvous(Path(route.run_dir))
        self._spool, self._journal_lost = spool, lost
        self._marks: dict[str, Any] = dict((past or {}).get("outlets", {}))
        if past and past.get("pending"):
            self.assembler.restore(past["pending"])
        self.open()

    def open(self) -> None:
        """Open the exporters that are not open; those that cannot be are said once and named in `problems`."""
        self.journaled = False
        wanted = list(self.route.exporters)
        for name in wanted:
            if name in self.outlets:
                continue
            folder = self._spool / self.key / name
            try:
                self.outlets[name] = open_outlet(
                    name, self.route, folder, self._allowance, self._marks.pop(name, None), lost=self._journal_lost
                )
            except (SettingError, NotEnabledError, ExportError, OSError) as error:
                self.problems[name] = str(error)
                say_once(f"exporter:{self.key}:{name}", "aiobs: exporter %s cannot be used: %s", name, error)
                if self.route.run_dir and FALLBACK not in wanted:
                    wanted.append(FALLBACK)
        if not self.outlets:
            say_once(f"route:{self.key}", "aiobs: run %s has no exporter that works; its flight records are kept until it has", self.route.run_id)  # fmt: skip

    def metrics_due(self) -> bool:
        """Whether it is time to export metrics."""
        return time.monotonic() >= self._metrics_at

    def flush(self, *, final: bool = False) -> bool:
        """Put what has been assembled to every outlet; says whether there was anything."""
        with_metrics = final or self.metrics_due()
        batch = self.assembler.take(time.time_ns(), metrics=with_metrics)
        if with_metrics:
            self._metrics_at = time.monotonic() + self._interval_s
            batch.metrics.append((self._stats.resource, self._stats.metrics(
                time.time_ns(), self.outlets, processed=self.processed, counted=self._counts(),
                capacity=self._allowance.limit,
            )))  # fmt: skip
            batch.metrics.append((self._machine.resource, self._machine.metrics(time.time_ns())))
        if not batch:
            return False
        self.processed += batch.span_count()
        self._put(batch)
        return True

    def _counts(self) -> Counter[str]:
        return self.counted + Counter(self.assembler.counts())

    def _put(self, batch: Batch) -> None:
        for name, outlet in self.outlets.items():
            try:
                outlet.put(batch)
            except Exception as error:
                outlet.give_up(batch)
                swallow(f"agent.outlet.{name}", error)

    def retry(self) -> None:
        """Try again what local exporters could not write."""
        for outlet in self.outlets.values():
            if isinstance(outlet, LocalOutlet):
                outlet.retry()

    def state(self) -> dict[str, Any]:
        """What the journal keeps of it."""
        return {
            "route": route_state(self.route),
            "outlets": {name: outlet.state() for name, outlet in self.outlets.items()},
            "pending": self.assembler.snapshot(),
        }

    @property
    def durable(self) -> bool:
        """Whether nothing waits in memory only."""
        return all(outlet.durable for outlet in self.outlets.values())

    def committed(self) -> None:
        """The turn is in the journal."""
        self.journaled = True
        for outlet in self.outlets.values():
            outlet.committed()

    def waiting(self) -> int:
        """Items not yet delivered."""
        return sum(outlet.waiting()[0] for outlet in self.outlets.values())

    def hurry(self) -> None:
        """Let remote exporters try again now."""
        for outlet in self.outlets.values():
            if isinstance(outlet, RemoteOutlet):
                outlet.delivery.hurry()

    def close_local(self) -> None:
        """Finish the files of local exporters that have written all; remote ones go on sending."""
        for name, outlet in list(self.outlets.items()):
            if isinstance(outlet, LocalOutlet) and not outlet.waiting()[0]:
                outlet.close()
                self._closed[name] = outlet_status(outlet)
                del self.outlets[name]

    def close(self, timeout_s: float) -> None:
        """Finish all."""
        for outlet in self.outlets.values():
            outlet.close(timeout_s)
        self.outlets.clear()

    def status(self) -> dict[str, Any]:
        """The route as the status file has it."""
        return {
            "key": self.key,
            "run_id": self.route.run_id,
            "run_dir": self.route.run_dir,
            "records": self.records,
            "spans": self.processed,
            "lost": self.counted["lost"],
            "counted": dict(self._counts()),
            "problems": self.problems,
            "exporters": {
                **self._closed,
                **{name: outlet_status(outlet) for name, outlet in self.outlets.items()},
            },
        }
