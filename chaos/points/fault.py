"""What the faults of points have in common: where, how often, for which requests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.point import Arm, looks_for_functions, record_of
from aiobs.chaos.points.grammar import parse
from aiobs.chaos.points.scope import read_key
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

_POINT = re.compile(r"[\w.\-]+(:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?", re.ASCII)


@dataclass(frozen=True)
class PointFault(Fault):
    """A fault at a point: a task with conditions."""

    certifies: ClassVar[str] = ""

    point: str = ""
    percent: float = 100.0
    count: int = 0
    after: int = 0
    only: str = ""
    key: str = ""
    run: str = ""

    def task(self) -> str:
        """What to do, in the grammar of points."""
        raise NotImplementedError

    def what(self) -> str:
        """The whole term."""
        return (
            (f"after({self.after}) " if self.after else "")
            + (f"{self.percent:.6f}% " if self.percent < 100 else "")
            + (f"{self.count}*" if self.count else "")
            + self.task()
        )

    def check(self) -> None:
        kind = self.kind
        if self.point and not _POINT.fullmatch(self.point):
            raise PlanError(f"{kind}: point", self.point, "use a dotted name, or package.module:Class.method")
        if not 0.000001 <= self.percent <= 100:
            raise PlanError(f"{kind}: percent", self.percent, "use above 0, at most 100")
        for name in ("count", "after"):
            if getattr(self, name) < 0:
                raise PlanError(f"{kind}: {name}", getattr(self, name), "use 0 or more")
        if self.only not in ("", "signed"):
            raise PlanError(f"{kind}: only", self.only, "use signed, or nothing for every hit")
        if self.only and not (self.key and self.run):
            raise PlanError(f"{kind}: only", self.only, "needs key (file:<path> or env:<name>) and run")
        if self.key and not self.key.startswith(("file:", "env:")):
            raise PlanError(
                f"{kind}: key", "…", "say where the key is: file:<path> or env:<name>; never the key itself"
            )
        if self.key.startswith("file:"):
            read_key(self.key)
        parse(self.what())

    def _point(self, unit: Unit) -> str:
        return self.point or unit.point

    def missing(self, unit: Unit) -> list[str]:
        records = [record for process in unit.processes if (record := record_of(process)) is not None]
        if not records:
            return [f"{unit.label} does not record: start it with  aiobs run, or call aiobs.init() in it"]
        if ":" in self._point(unit) and not any(map(looks_for_functions, records)):
            return [f"{unit.label} does not look for functions to arm: start it with AIOBS_POINTS=functions"]
        return []

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        point = self._point(unit)
        if not point:
            raise PlanError(f"{self.kind}: point", "", "name one, here or in the target (point:<name>@pid:<pid>)")
        pids, starts = zip(*((it.pid, it.start) for it in unit.processes), strict=True)
        return [
            Arm(
                f"{setting.injection}-{unit.processes[0].pid}", self.kind, pids, starts, setting.effect_s, point,
                self.what(), f"{setting.random.getrandbits(64):016x}", self.only, self.key, self.run,
            )
        ]  # fmt: skip
