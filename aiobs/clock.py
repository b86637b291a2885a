"""Time: monotonic nanoseconds inside, wall-clock nanoseconds at the OpenTelemetry edge."""

from __future__ import annotations

import time

monotonic_ns = time.monotonic_ns
"""CLOCK_MONOTONIC in ns: one clock for all processes of a host, never stepped."""

wall_ns = time.time_ns
"""Nanoseconds since the Unix epoch."""


def wall_offset_ns() -> int:
    """`wall - monotonic` in ns, taken at one moment (the tightest of five readings).

    Both clocks are slewed alike by NTP, so the offset only changes when the wall clock is *stepped*; keeping
    one offset for the life of a process keeps its spans in order across such a step.
    """
    best_width = 1 << 62
    offset = 0
    for _ in range(5):
        before = monotonic_ns()
        wall = wall_ns()
        after = monotonic_ns()
        if after - before < best_width:
            best_width = after - before
            offset = wall - (before + after) // 2
    return offset
