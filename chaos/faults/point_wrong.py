"""A place in the code that gives wrong results."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.points.fault import PointFault
from aiobs.errors import PlanError


@dataclass(frozen=True)
class PointWrong(PointFault):
    """Give another value of the same type, shape and precision; the right one stays as it is. Numbers, arrays, tensors.

    Attributes:
        point: name of the point, or a function as ``package.module:Class.method``; may come from the target.
        percent: act at so many of a hundred hits.
        count: act at most so many times; 0 for no limit.
        after: do not act at the first so many hits.
        only: ``signed`` to hit only requests that carry the signed baggage entry of `run`.
        key: where the key for that is, ``file:<path>`` or ``env:<name>``, as the process that is hit finds it.
        run: the run that the entry must name.
        how: ``nan`` one element is not a number; ``bitflip`` that many `bits` differ; ``stale`` the value before.
        bits: how many bits to flip.
    """

    kind = "point.wrong"
    certifies = "whether a wrong result is noticed before it spreads: guards against NaN, checks of results"
    limits = "silent errors of hardware: where they strike and how often; a device holds its right value"

    how: str = "nan"
    bits: int = 1

    def check(self) -> None:
        if self.how not in ("nan", "bitflip", "stale"):
            raise PlanError("point.wrong: how", self.how, "use nan, bitflip or stale")
        super().check()

    def task(self) -> str:
        return f"bitflip({self.bits})" if self.how == "bitflip" else self.how
