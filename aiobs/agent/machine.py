"""The machine under the recorded processes: what the agent samples of its GPUs and of the host."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from aiobs import names
from aiobs.agent.attribution import MARGIN_NS, Attribution
from aiobs.agent.device_events import Health, span_event
from aiobs.agent.device_metrics import set_devices
from aiobs.agent.fault_links import FaultLinks
from aiobs.agent.host_metrics import HostMetrics
from aiobs.agent.metrics import Metrics
from aiobs.agent.sampling import Message, Sampling, sampler_command
from aiobs.clock import monotonic_ns, wall_ns, wall_offset_ns
from aiobs.device import wire
from aiobs.device.base import LOST
from aiobs.device.likely import likely
from aiobs.guard import say_once, swallow
from aiobs.settings import Settings
from aiobs.telemetry import Metric, Resource, Value

ASK_WHO_NS = 30_000_000_000
"""The driver is asked for the processes on its devices so often, where a process does not say it itself."""

LAST_NS = 300_000_000
"""An agent told to stop waits so long for a last reading."""
REST_NS = 10_000_000_000
"""Without a recorded process for so long the sampler is let go."""


class Machine:
    """See the module's text.

    Attributes:
        attribution: what GPUs did for which process.
        resource: of the host's metrics.
    """

    def __init__(self, settings: Settings, past: dict[str, Any], runtime: Path) -> None:
        """`past`: what :meth:`snapshot` gave the journal of an earlier agent; `runtime`: the runtime directory."""
        self.attribution = Attribution(settings.device_period_s)
        self.resource = Resource(host_resource())
        self._offset = wall_offset_ns()
        self._metrics = Metrics(wall_ns())
        self._health = Health()
        self._host = HostMetrics(settings.host_period_s)
        self._faults = FaultLinks(runtime, self._metrics)
        self._slow = 0
        self._asked_ns = 0
        self._busy_ns = monotonic_ns()
        self._sampling: Sampling | None = None
        if settings.devices == "auto" and likely(os.environ):
            self._sampling = Sampling(sampler_command(settings.device_period_s), settings.device_period_s)
            self.attribution.expected = True
            self.attribution.hurry = lambda: self._ask(wire.NOW)
        if past:
            self.attribution.restore(past["gpus"])
            self._health.restore(past["health"])

    def _ask(self, wish: bytes) -> None:
        if self._sampling is not None:
            self._sampling.ask(wish)

    # -- one turn ------------------------------------------------------------------------------------------
    def turn(self, drained_ns: int | None, *, busy: bool) -> None:
        """Take in what was sampled, and settle what it settles.

        Args:
            busy: there are processes; without any for a while, nothing is sampled.
            drained_ns: all records written before that moment (monotonic ns) have been read; None where there
                is more to read.
        """
        try:
            self._faults.turn(self.attribution.works.values())
            self._host.turn(self.attribution.works.values())
            if self._sampling is None or not self._awake(busy):
                return
            for message in self._sampling.turn():
                self._take(message)
            self.attribution.expected = self._sampling.running
            if drained_ns is not None:
                self.attribution.settle(drained_ns)
            now = monotonic_ns()
            if now - self._asked_ns > ASK_WHO_NS and self.attribution.listed and self.attribution.silent():
                self._asked_ns = now
                self._sampling.ask(wire.WHO)
        except Exception as error:
            swallow("agent.machine", error)

    def _take(self, message: Message) -> None:
        kind, content = message
        attribution = self.attribution
        if kind == wire.READINGS:
            for gpu, reading in wire.unpack_readings(content):
                attribution.reading(gpu, reading)
        elif kind == wire.EVENTS:
            for event in wire.unpack_events(content):
                if event.kind == LOST:
                    attribution.lose(event.device)
                if self._health.see(event):
                    attribution.hit(event.device, span_event(event, 0), event.time_ns)
        elif kind == wire.DEVICES:
            attribution.devices(wire.unpack_devices(content))
            if any(gpu.identity is not None and gpu.identity.fake for gpu in attribution.gpus.values()):
                self.resource = Resource({**self.resource.attributes, names.GPU_FAKE: True})
            for work in attribution.works.values():
                attribution.assign(work)
        elif kind == wire.PROCESSES:
            attribution.processes(content)
        elif kind == wire.SLOW:
            self._slow += 1
            gpu, group, seconds, period_s = content
            say_once(f"slow:{gpu}:{group}", "aiobs: reading %s of %s took %.2g s; it is read every %.2g s for now", group, gpu, seconds, period_s)  # fmt: skip

    def read_once_more(self) -> None:
        """Wait a moment for a last reading, where a process uses GPUs: it is what their last spans wait for."""
        if self._sampling is None or not any(work.gpus for work in self.attribution.works.values()):
            return
        began, until = monotonic_ns(), monotonic_ns() + LAST_NS
        self._sampling.ask(wire.NOW)
        while self._sampling.running and monotonic_ns() < until and not self._read_since(began):
            time.sleep(0.005)
            for message in self._sampling.turn():
                self._take(message)
        time.sleep(MARGIN_NS / 1e9)

    def _read_since(self, began_ns: int) -> bool:
        used = {self.attribution.owner(gpu) for work in self.attribution.works.values() for gpu in work.gpus}
        known = [self.attribution.gpus[gpu] for gpu in used & self.attribution.gpus.keys()]
        return all(gpu.lost or gpu.told_ns >= began_ns for gpu in known)

    def _awake(self, busy: bool) -> bool:
        now = monotonic_ns()
        if busy:
            self._busy_ns = now
        elif now - self._busy_ns > REST_NS and self._sampling is not None:
            self._sampling.close()
            self.attribution.expected = False
            self.attribution.forget()
        return now - self._busy_ns <= REST_NS

    # -- what it tells -------------------------------------------------------------------------------------
    def metrics(self, now_ns: int) -> list[Metric]:
        """Devices and host, as of `now_ns` (Unix ns)."""
        metrics = self._metrics
        set_devices(metrics, self.attribution.gpus, self._health, self._offset, now_ns)
        self._host.set(metrics, now_ns)
        if self._sampling is not None and self.attribution.gpus:
            metrics.set(names.GPU_SAMPLER_RESTARTS, self._sampling.restarts, now_ns)
            metrics.set(names.GPU_SAMPLER_SLOW, self._slow, now_ns)
        return metrics.collect(now_ns)

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state; {} where there are no GPUs."""
        gpus = self.attribution.snapshot()
        return {"gpus": gpus, "health": self._health.snapshot()} if gpus else {}

    def close(self) -> None:
        """Let go of everything."""
        if self._sampling is not None:
            self._sampling.close()


def host_resource() -> dict[str, Value]:
    """Who the metrics of the host are about: the same for every run on it."""
    found: dict[str, Value] = {
        names.SERVICE_NAME: "aiobs-agent",
        names.HOST_NAME: os.uname().nodename if hasattr(os, "uname") else "",
        names.OS_TYPE: sys.platform,
    }
    with contextlib.suppress(OSError):
        found[names.HOST_ID] = Path("/etc/machine-id").read_text().strip()
    return found
