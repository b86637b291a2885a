"""A rank that stands still at a step."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs import names
from aiobs.chaos.points.fault import PointFault
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class RankStall(PointFault):
    """Hold the rank at the beginning of step `step` (point ``train.step``), for `stall_s` or until the fault ends.

    Attributes:
        step: number of the step; one that is over already is not reached.
        stall_s: seconds, 0: until the fault ends.
        point: name of the point, or a function as ``package.module:Class.method``; may come from the target.
        percent: act at so many of a hundred hits.
        count: act at most so many times; 0 for no limit.
        after: do not act at the first so many hits.
        only: ``signed`` to hit only requests that carry the signed baggage entry of `run`.
        key: where the key for that is, ``file:<path>`` or ``env:<name>``, as the process that is hit finds it.
        run: the run that the entry must name.
    """

    kind = "rank.stall"
    certifies = "time-outs of collectives and detection of a straggler, at a known step"
    limits = "a rank that hangs inside a collective or a kernel: this one stands before its step"

    step: int = -1
    stall_s: float = 0.0

    def check(self) -> None:
        if self.step < 0:
            raise PlanError("rank.stall: step", self.step, "name the step, 0 or more")
        if self.stall_s < 0:
            raise PlanError("rank.stall: stall_s", self.stall_s, "use 0 or more seconds")
        super().check()

    def task(self) -> str:
        return f"at({self.step}) " + (f"sleep({self.stall_s * 1e3:.3f})" if self.stall_s else "hang")

    def _point(self, unit: Unit) -> str:
        return super()._point(unit) or names.POINT_STEP
