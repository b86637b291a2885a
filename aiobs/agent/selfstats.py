"""What the agent says about itself: OpenTelemetry's own metrics for pipelines, and a status file for people.

The names are those of an SDK's span processor and exporters, which is what recorder and agent are together.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiobs import guard, names
from aiobs.agent.outlets import Outlet, RemoteOutlet
from aiobs.telemetry import Metric, Point, Resource

LOSSES = {"lost": "queue_full", "damaged": "damaged", "unrecorded": "unrecorded", "overflow": "overflow"}
"""``error.type`` by counter: overwritten in the ring before they were read; unreadable; given up by the recorder;
more waited for an undecided step than may. A torn record is no loss: its span is still open and comes truncated."""
STATUS_AGE_S = 10.0
"""The status file is written at least so often."""

_METRICS = {
    names.SDK_PROCESSED: ("{span}", "sum", "Records the agent has dealt with; with error.type: lost."),
    names.SDK_EXPORTED: ("{span}", "sum", "Spans handed to the exporter; with error.type: given up."),
    names.SDK_INFLIGHT: ("{span}", "updown", "Items of the request under way."),
    names.SDK_QUEUE_SIZE: ("{span}", "updown", "Items that wait to be sent."),
    names.SDK_QUEUE_CAPACITY: ("By", "updown", "Bytes the spool may take."),
    names.SPOOL_BYTES: ("By", "updown", "Bytes in the spool."),
    names.SPOOL_DROPPED: ("{item}", "sum", "Items dropped from the spool, by error.type."),
    names.CLIPPED: ("{value}", "sum", "Attribute values, events and links cut to their limits."),
    names.AGENT_FAULTS: ("{fault}", "sum", "Exceptions inside aiobs that were swallowed."),
}


class SelfStats:
    """The figures of one route, as metrics with the agent as their resource."""

    def __init__(self, version: str, run_id: str, start_ns: int) -> None:
        """`start_ns`: Unix ns since when the sums count."""
        self.resource = Resource({
            names.SERVICE_NAME: "aiobs-agent",
            names.SERVICE_VERSION: version,
            names.PROCESS_PID: os.getpid(),
            names.HOST_NAME: os.uname().nodename if hasattr(os, "uname") else "",
            names.PROCESS_ROLE: "agent",
            names.RUN_ID: run_id,
        })  # fmt: skip
        self._start_ns = start_ns

    def metrics(
        self, now_ns: int, outlets: Mapping[str, Outlet], *, processed: int, counted: Mapping[str, int], capacity: int
    ) -> list[Metric]:
        """All figures at `now_ns` (Unix ns).

        Args:
            outlets: by name of the exporter.
            processed: spans. `counted`: what flight records and assembler counted. `capacity`: of the spool, bytes.
        """
        points: dict[str, list[Point]] = {}

        def add(metric: str, value: float, **attributes: str) -> None:
            named = {_ATTRIBUTES[key]: text for key, text in attributes.items()}
            points.setdefault(metric, []).append(Point(named, self._start_ns, now_ns, value))

        add(names.SDK_PROCESSED, processed)
        for counter, error in LOSSES.items():
            if counted.get(counter):
                add(names.SDK_PROCESSED, counted[counter], error=error)
        if counted.get("clipped"):
            add(names.CLIPPED, counted["clipped"])
        add(names.AGENT_FAULTS, guard.faults, role="agent")
        add(names.AGENT_FAULTS, counted.get("faults", 0), role="recorder")
        for exporter, outlet in outlets.items():
            items, size = outlet.waiting()
            add(names.SDK_EXPORTED, outlet.exported["traces"], component=exporter)
            add(names.SDK_QUEUE_SIZE, items, component=exporter)
            for reason, count in outlet.dropped.items():
                add(names.SPOOL_DROPPED, count, component=exporter, error=reason)
            if isinstance(outlet, RemoteOutlet):
                add(names.SDK_INFLIGHT, outlet.delivery.in_flight, component=exporter)
                add(names.SPOOL_BYTES, size, component=exporter)
                add(names.SDK_QUEUE_CAPACITY, capacity, component=exporter)
        return [
            Metric(name, unit, description, kind, points[name])
            for name, (unit, kind, description) in _METRICS.items()
            if name in points
        ]


_ATTRIBUTES = {"role": names.PROCESS_ROLE, "component": names.COMPONENT_NAME, "error": names.ERROR_TYPE}


def outlet_status(outlet: Outlet) -> dict[str, Any]:
    """An outlet as the status file has it."""
    items, size = outlet.waiting()
    return {
        "exported": dict(outlet.exported),
        "waiting": items,
        "waiting_bytes": size,
        "dropped": dict(outlet.dropped),
        "last_error": outlet.last_error,
    }


def status_path(runtime_dir: Path) -> Path:
    """The status file."""
    return runtime_dir / "agent" / "status.json"


class StatusFile:
    """The status file, as its writer has it."""

    def __init__(self, runtime_dir: Path) -> None:
        self._path = status_path(runtime_dir)
        self._said: Mapping[str, Any] = {}
        self._said_at = 0.0

    def say(self, status: Mapping[str, Any]) -> None:
        """Replace it; a disk that refuses is no reason to stop.

        Not for the time alone: renaming over a file makes some file systems write it out at once.
        """
        now = time.time()
        if status == self._said and now - self._said_at < STATUS_AGE_S:
            return
        self._said, self._said_at = status, now
        temporary = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps({**status, "time": now}))
            temporary.replace(self._path)


def read_status(runtime_dir: Path) -> dict[str, Any]:
    """What the agent last said of itself; {} where there is nothing to read."""
    try:
        found = json.loads(status_path(runtime_dir).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
