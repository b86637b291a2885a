"""A rank that dies at a step."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs import names
from aiobs.chaos.points.fault import PointFault
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class RankKill(PointFault):
    """Send the rank a deadly signal at the beginning of step `step` (point ``train.step``).

    Attributes:
        step: number of the step; one that is over already is not reached.
        signal_name: KILL, TERM, …
        point: name of the point, or a function as ``package.module:Class.method``; may come from the target.
        percent: act at so many of a hundred hits.
        count: act at most so many times; 0 for no limit.
        after: do not act at the first so many hits.
        only: ``signed`` to hit only requests that carry the signed baggage entry of `run`.
        key: where the key for that is, ``file:<path>`` or ``env:<name>``, as the process that is hit finds it.
        run: the run that the entry must name.
    """

    kind = "rank.kill"
    certifies = "detection of a lost rank and recovery from the last checkpoint, at a known step"
    limits = "what led to the death; the rest of its node lives"

    step: int = -1
    signal_name: str = "KILL"

    def check(self) -> None:
        if self.step < 0:
            raise PlanError("rank.kill: step", self.step, "name the step, 0 or more")
        super().check()

    def task(self) -> str:
        return f"at({self.step}) kill({self.signal_name})"

    def _point(self, unit: Unit) -> str:
        return super()._point(unit) or names.POINT_STEP
