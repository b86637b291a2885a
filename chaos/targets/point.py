"""A named place in the code of processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aiobs.chaos.target import Target, Unit, parse_target
from aiobs.errors import PlanError


@dataclass(frozen=True)
class Point(Target):
    """``point:checkpoint.write@rank:2``: the point, and any target whose processes have it."""

    scheme = "point"
    pattern = True
    example = "checkpoint.write@pid:4711"

    def resolve(self) -> list[Unit]:
        name, _, where = self.value.partition("@")
        if not name or not where:
            raise PlanError("target", str(self), f"write the point and where it is, such as point:{self.example}")
        units = parse_target(where).resolve()
        return [replace(unit, label=f"{name} in {unit.label}", point=name) for unit in units]
