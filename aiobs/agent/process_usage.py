"""The CPU time a process used while a span of it ran."""

from __future__ import annotations

from aiobs import names
from aiobs.agent.curve import Curve
from aiobs.clock import monotonic_ns
from aiobs.device.process_stats import cpu_s, memory_peak_bytes
from aiobs.telemetry import Value

LEAST_NS = 1_000_000_000
"""Shorter spans are told nothing: the kernel counts in clock ticks, and we look once a second."""
FRESH_NS = 100_000_000
"""A reading not older than this is as good as a new one."""
UNKNOWN_SHARE = 0.1
"""So much of a span may lie before the first reading and behind the last one."""


class ProcessUsage:
    """Readings of one process's CPU time; a pid of 0 is nobody's."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu = Curve(1024)

    def end(self) -> None:
        """The process has ended; its number may soon be another one's."""
        self._pid = 0

    def look(self) -> None:
        """Read, unless that was just done."""
        now = monotonic_ns()
        if self._cpu.times and now - self._cpu.times[-1] < FRESH_NS:
            return
        seconds = cpu_s(self._pid) if self._pid else None
        if seconds is not None:
            self._cpu.add(now, seconds)

    def attributes(self, begin_ns: int, end_ns: int) -> dict[str, Value]:
        """What is told of a span from `begin_ns` to `end_ns` (monotonic), which has just ended; {} for a short one."""
        if end_ns - begin_ns < LEAST_NS:
            return {}
        self.look()
        found: dict[str, Value] = {}
        times = self._cpu.times
        slack = int((end_ns - begin_ns) * UNKNOWN_SHARE)
        if times and times[0] <= begin_ns + slack and times[-1] >= end_ns - slack:
            found[names.PROCESS_CPU_DURATION] = self._cpu.between(begin_ns, end_ns)
        peak = memory_peak_bytes(self._pid) if self._pid else None
        if peak is not None:
            found[names.PROCESS_MEMORY_PEAK] = peak
        return found
