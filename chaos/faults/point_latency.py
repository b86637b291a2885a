"""A slow place in the code."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.points.fault import PointFault
from aiobs.errors import PlanError


@dataclass(frozen=True)
class PointLatency(PointFault):
    """Let the point take `delay_s` longer; in coroutines the event loop goes on meanwhile.

    Attributes:
        point: name of the point, or a function as ``package.module:Class.method``; may come from the target.
        percent: act at so many of a hundred hits.
        count: act at most so many times; 0 for no limit.
        after: do not act at the first so many hits.
        only: ``signed`` to hit only requests that carry the signed baggage entry of `run`.
        key: where the key for that is, ``file:<path>`` or ``env:<name>``, as the process that is hit finds it.
        run: the run that the entry must name.
        delay_s: seconds a hit is held.
    """

    kind = "point.latency"
    certifies = "time-outs, hedging and back-pressure around a slow call"
    limits = "what made it slow; CPU, memory and sockets stay idle meanwhile"

    delay_s: float = 0.1

    def check(self) -> None:
        if not 0 < self.delay_s <= 3600:
            raise PlanError("point.latency: delay_s", self.delay_s, "use seconds above 0, at most 3600")
        super().check()

    def task(self) -> str:
        return f"sleep({self.delay_s * 1e3:.3f})"
