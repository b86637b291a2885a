"""A place in the code that does not come back."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.points.fault import PointFault


@dataclass(frozen=True)
class PointHang(PointFault):
    """Hold whoever reaches the point until the fault ends; then it goes on as if nothing had been.

    Attributes:
        point: name of the point, or a function as ``package.module:Class.method``; may come from the target.
        percent: act at so many of a hundred hits.
        count: act at most so many times; 0 for no limit.
        after: do not act at the first so many hits.
        only: ``signed`` to hit only requests that carry the signed baggage entry of `run`.
        key: where the key for that is, ``file:<path>`` or ``env:<name>``, as the process that is hit finds it.
        run: the run that the entry must name.
    """

    kind = "point.hang"
    certifies = "deadlines and watchdogs around a call that never returns"
    limits = "a deadlock with locks of its own, or one that outlasts the fault"

    def task(self) -> str:
        return "hang"
