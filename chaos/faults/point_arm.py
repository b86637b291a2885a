"""Any task at a point, in the grammar of points."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.points.fault import PointFault
from aiobs.chaos.points.grammar import parse
from aiobs.errors import PlanError


@dataclass(frozen=True)
class PointArm(PointFault):
    """Arm the point with `do`, such as ``after(3) 10% 2*sleep(50) -> raise(TimeoutError, "gone")``; see the page on points.

    Attributes:
        point: name of the point, or a function as ``package.module:Class.method``; may come from the target.
        percent: act at so many of a hundred hits.
        count: act at most so many times; 0 for no limit.
        after: do not act at the first so many hits.
        only: ``signed`` to hit only requests that carry the signed baggage entry of `run`.
        key: where the key for that is, ``file:<path>`` or ``env:<name>``, as the process that is hit finds it.
        run: the run that the entry must name.
        do: what to do.
    """

    kind = "point.arm"
    certifies = "what the program does about the tasks given, at this place"
    limits = "the causes such faults have in life; see the single faults of points"

    do: str = "off"

    def check(self) -> None:
        super().check()
        if all(term.task == "off" for term in parse(self.do)):
            raise PlanError("point.arm: do", self.do, "does nothing; name a task such as sleep(50) or raise")
        if len(parse(self.do)) > 1 and (self.percent < 100 or self.count or self.after):
            raise PlanError("point.arm: do", self.do, "has several terms: write conditions into these")

    def task(self) -> str:
        return self.do
