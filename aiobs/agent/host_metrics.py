"""The host and the recorded processes as the kernel sees them, as metrics by the conventions."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from aiobs import names
from aiobs.agent.metrics import Metrics
from aiobs.agent.work import Work
from aiobs.clock import wall_ns
from aiobs.device.cgroups import Group, Limits, find_groups, kills_file, read_kills, read_limits
from aiobs.device.disk import read_disks
from aiobs.device.host import read_cpu, read_memory
from aiobs.device.network import Traffic, read_infiniband, read_interfaces
from aiobs.device.pressure import read_pressure
from aiobs.device.process_stats import read_process
from aiobs.telemetry import SpanEvent, Value

LOOK_S = 1.0
"""CPU time and OOM kills of each process are looked at so often."""
RECEIVE, TRANSMIT = "receive", "transmit"


class HostMetrics:
    """Reads what is due. `period_s`: between two readings that become metrics."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._read_at = self._looked_at = 0.0
        self._kills: dict[Path, int] = {}
        self._groups: dict[str, tuple[list[Group], list[Group]]] = {}

    def turn(self, works: Collection[Work]) -> None:
        """Look at the processes, where it is time."""
        now = time.monotonic()
        if not works or now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        due = now - self._read_at >= self._period_s
        # Mount tables can be long, and processes seldom change their groups.
        known = {} if due else self._groups
        living = [work for work in works if work.ended_ns is None and work.pid]
        self._groups = {
            work.key: known.get(work.key) or (find_groups(work.pid, "memory"), find_groups(work.pid, "cpu"))
            for work in living
        }
        for work in living:
            work.usage.look()
            if due or work.key not in known:
                set_process(work, *self._groups[work.key])
        self._look_for_kills(living)
        if due:
            self._read_at = now

    def _look_for_kills(self, works: list[Work]) -> None:
        """An OOM kill in the control group of a process is news to all the processes in it."""
        hit: dict[Path, list[Work]] = {}
        for work in works:
            for group in self._groups[work.key][0]:
                hit.setdefault(kills_file(group), []).append(work)
        now = wall_ns()
        counted: dict[Path, int] = {}
        for file, members in hit.items():
            kills = read_kills(file)
            if kills is None:
                continue
            counted[file] = kills
            more = kills - self._kills.get(file, kills)
            if more > 0:
                attributes: dict[str, Value] = {names.OOM_KILL_GROUP: str(file.parent), names.OOM_KILLS: more}
                for work in members:
                    work.happened(SpanEvent(names.EVENT_OOM_KILL, now, attributes))
        self._kills = counted

    def set(self, metrics: Metrics, now_ns: int) -> None:
        """Set the metrics of the host as of `now_ns` (Unix ns)."""
        for mode, seconds in read_cpu().items():
            metrics.set(names.SYSTEM_CPU_TIME, seconds, now_ns, ((names.CPU_MODE, mode),))
        for state, size in read_memory().items():
            if state == "total":
                metrics.set(names.SYSTEM_MEMORY_LIMIT, size, now_ns)
            else:
                metrics.set(names.SYSTEM_MEMORY_USAGE, size, now_ns, ((names.SYSTEM_MEMORY_STATE, state),))
        for disk, moved in read_disks().items():
            for way, size in zip(("read", "write"), moved, strict=True):
                attributes = ((names.SYSTEM_DEVICE, disk), (names.DISK_IO_DIRECTION, way))
                metrics.set(names.SYSTEM_DISK_IO, size, now_ns, attributes)
        for name, traffic in read_interfaces().items():
            _set_traffic(metrics, now_ns, name, traffic)
        for port, traffic in read_infiniband().items():
            _set_port(metrics, now_ns, port, traffic)
        for (resource, kind), seconds in read_pressure().items():
            attributes = ((names.PRESSURE_RESOURCE, resource), (names.PRESSURE_KIND, kind))
            metrics.set(names.PRESSURE_STALLED, seconds, now_ns, attributes)


def _set_traffic(metrics: Metrics, now_ns: int, name: str, traffic: Traffic) -> None:
    for way, size, errors in (
        (RECEIVE, traffic.received_bytes, traffic.received_errors),
        (TRANSMIT, traffic.sent_bytes, traffic.sent_errors),
    ):
        attributes = ((names.NETWORK_INTERFACE, name), (names.NETWORK_IO_DIRECTION, way))
        metrics.set(names.SYSTEM_NETWORK_IO, size, now_ns, attributes)
        metrics.set(names.SYSTEM_NETWORK_ERRORS, errors, now_ns, attributes)


def _set_port(metrics: Metrics, now_ns: int, port: str, traffic: Traffic) -> None:
    for way, size, packets, errors in (
        (RECEIVE, traffic.received_bytes, traffic.received_packets, traffic.received_errors),
        (TRANSMIT, traffic.sent_bytes, traffic.sent_packets, traffic.sent_errors),
    ):
        attributes = ((names.HW_ID, port), (names.NETWORK_IO_DIRECTION, way))
        metrics.set(names.HW_NETWORK_IO, size, now_ns, attributes)
        metrics.set(names.HW_NETWORK_PACKETS, packets, now_ns, attributes)
        kind = ((names.HW_ID, port), (names.HW_TYPE, "network"), (names.ERROR_TYPE, way))
        metrics.set(names.HW_ERRORS, errors, now_ns, kind)


def set_process(work: Work, memory: list[Group], cpu: list[Group]) -> None:
    """Set the metrics of a process, and of its control groups, on its own resource."""
    found = read_process(work.pid)
    if found is None:
        return
    metrics, now = work.metrics, wall_ns()
    for name, key, told in (
        (names.PROCESS_CPU_TIME, names.CPU_MODE, {"user": found.user_s, "system": found.system_s}),
        (names.PROCESS_CONTEXT_SWITCHES, names.PROCESS_SWITCH_TYPE, {"voluntary": found.voluntary, "involuntary": found.involuntary}),
        (names.PROCESS_DISK_IO, names.DISK_IO_DIRECTION, {"read": found.read_bytes, "write": found.write_bytes}),
        (names.PROCESS_PAGING_FAULTS, names.SYSTEM_PAGING_FAULT_TYPE, {"minor": found.minor_faults, "major": found.major_faults}),
    ):  # fmt: skip
        for variant, value in told.items():
            if value is not None:
                metrics.set(name, value, now, ((key, variant),))
    limits = read_limits(memory, cpu)
    for name, level in (
        (names.PROCESS_MEMORY_USAGE, found.memory_bytes),
        (names.PROCESS_MEMORY_VIRTUAL, found.virtual_bytes),
        (names.PROCESS_THREAD_COUNT, found.threads),
        (names.PROCESS_DESCRIPTORS, found.descriptors),
        *_of_container(limits),
    ):
        if level is not None:
            metrics.set(name, level, now)


def _of_container(limits: Limits) -> tuple[tuple[str, float | None], ...]:
    return (
        (names.CONTAINER_MEMORY_USAGE, limits.memory_bytes),
        (names.CONTAINER_MEMORY_LIMIT, limits.memory_limit_bytes),
        (names.OOM_KILLS, limits.oom_kills),
        (names.CONTAINER_CPU_TIME, limits.cpu_s),
        (names.CONTAINER_CPU_LIMIT, limits.cpu_limit),
        (names.CONTAINER_CPU_THROTTLED, limits.cpu_throttled_s),
    )
