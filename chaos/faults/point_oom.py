"""Memory that runs out at a place in the code."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.points.fault import PointFault
from aiobs.errors import PlanError


@dataclass(frozen=True)
class PointOom(PointFault):
    """Raise ``torch.OutOfMemoryError`` (``MemoryError`` where PyTorch is not loaded) at the `nth` hit, as an allocation, step or request that does not fit does.

    Attributes:
        point: name of the point, or a function as ``package.module:Class.method``; may come from the target.
        percent: act at so many of a hundred hits.
        count: act at most so many times; 0 for no limit.
        after: do not act at the first so many hits.
        only: ``signed`` to hit only requests that carry the signed baggage entry of `run`.
        key: where the key for that is, ``file:<path>`` or ``env:<name>``, as the process that is hit finds it.
        run: the run that the entry must name.
        nth: at which hit, counted from when it is armed.
    """

    kind = "point.oom"
    certifies = "the way the program goes after this error: smaller batches, freed caches, a request refused"
    limits = "memory itself: as much is free as before, nothing is fragmented"

    nth: int = 1

    def check(self) -> None:
        if self.nth < 1:
            raise PlanError("point.oom: nth", self.nth, "use 1 or more")
        if self.after or self.count:
            raise PlanError("point.oom: nth", self.nth, "says it all; leave after and count out")
        super().check()

    def task(self) -> str:
        return f"after({self.nth - 1}) 1*oom"
