"""A place in the code that stops every thread of the process."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.points.fault import PointFault
from aiobs.errors import PlanError


@dataclass(frozen=True)
class PointGil(PointFault):
    """Hold the interpreter lock at the point, as an extension module does that does not let go of it.

    Attributes:
        point: name of the point, or a function as ``package.module:Class.method``; may come from the target.
        percent: act at so many of a hundred hits.
        count: act at most so many times; 0 for no limit.
        after: do not act at the first so many hits.
        only: ``signed`` to hit only requests that carry the signed baggage entry of `run`.
        key: where the key for that is, ``file:<path>`` or ``env:<name>``, as the process that is hit finds it.
        run: the run that the entry must name.
        hold_s: seconds of each hit, at most 4: nothing can end a hit sooner, not even undoing.
    """

    kind = "point.gil"
    certifies = "heartbeats, health checks and tail latency when all Python threads stop"
    limits = "native threads: those that need no interpreter go on"

    hold_s: float = 0.2

    def check(self) -> None:
        if not 0 < self.hold_s <= 4:
            raise PlanError("point.gil: hold_s", self.hold_s, "use seconds above 0, at most 4; nothing ends it sooner")
        super().check()

    def task(self) -> str:
        return f"gil({self.hold_s * 1e3:.3f})"
