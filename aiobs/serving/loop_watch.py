"""Whether an event loop was blocked, asked afterwards.

While requests are open on a loop, one timer for all of them asks to be called every 50 ms. It comes late by as long
as the loop ran nothing else: that stretch is noted. With no request open there is no timer. Twenty calls of a
microsecond a second tell a loop that was blocked from an upstream that was slow, on any loop (uvloop too), with
nothing of the loop replaced.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from aiobs.clock import monotonic_ns

BEAT_S = 0.05
LATE_NS = 20_000_000
"""Lateness that counts as blocked; less is what any busy loop has."""
KEPT = 64
"""Blocked stretches remembered for each loop."""


class LoopWatch:
    """The blocked stretches of one event loop. Touched by that loop's thread alone."""

    __slots__ = ("_blocked", "_call_later", "_due", "_open")

    def __init__(self, call_later: Callable[..., Any]) -> None:
        self._call_later = call_later
        self._blocked: deque[tuple[int, int]] = deque(maxlen=KEPT)
        self._due = 0
        self._open = 0

    def enter(self) -> None:
        """A request is open from here on."""
        self._open += 1
        if not self._due:
            self._arm()

    def leave(self) -> None:
        """It is not any more; with the last one the timer goes out at its next call."""
        self._open -= 1

    def _arm(self) -> None:
        self._due = monotonic_ns() + int(BEAT_S * 1e9)
        self._call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        now = monotonic_ns()
        if now - self._due > LATE_NS:
            self._blocked.append((self._due, now))
        if self._open > 0:
            self._arm()
        else:
            self._due = 0

    def blocked_ns(self, start_ns: int, end_ns: int) -> int:
        """How much of the time from `start_ns` to `end_ns` (monotonic, the latter about now) the loop was blocked."""
        total = 0
        for start, end in reversed(self._blocked):
            if end <= start_ns:
                break
            total += max(0, min(end, end_ns) - max(start, start_ns))
        # What blocks may be what asks: then the timer is overdue and has yet to be called.
        if self._due and end_ns - self._due > LATE_NS:
            total += end_ns - max(self._due, start_ns)
        return total


_watches: WeakKeyDictionary[Any, LoopWatch] = WeakKeyDictionary()


def watch_here() -> LoopWatch | None:
    """The watch of the asyncio loop that runs in this thread, or None where none does."""
    events = sys.modules.get("asyncio.events")
    loop = None if events is None else events._get_running_loop()
    if loop is None:
        return None
    watch = _watches.get(loop)
    if watch is None:
        # Not the loop itself: a watch that held it would keep it alive.
        watch = _watches[loop] = LoopWatch(_later(loop))
    return watch


def _later(loop: Any) -> Callable[..., Any]:
    from weakref import ref

    here = ref(loop)

    def call_later(delay_s: float, callback: Callable[[], None]) -> None:
        loop = here()
        if loop is not None:
            loop.call_later(delay_s, callback)

    return call_later
