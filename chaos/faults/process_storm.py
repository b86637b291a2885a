"""A restart storm: whatever comes back dies again."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.worker import Run
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class ProcessStorm(Fault):
    """Kill the unit, and whatever its supervisor (its parent) starts in its place, every `every_s` seconds.

    A process takes another's place where it has the same parent and the same command line.

    Attributes:
        every_s: seconds between kills.
    """

    kind = "process.storm"
    certifies = "back-off and limits of whoever restarts it; what others suffer from a crash loop"
    limits = "what led to the crashes"

    every_s: float = 1.0

    def check(self) -> None:
        if self.every_s < 0.05:
            raise PlanError("process.storm: every_s", self.every_s, "use at least 0.05 s")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        root = unit.processes[0]
        if root.parent() <= 1:
            raise PlanError("target", unit.label, "has no supervisor that would restart it; use process.kill")
        told = {"pid": root.pid, "start": root.start, "every_s": self.every_s}
        return [Run("storm", f"{setting.injection}-storm-{root.pid}", json.dumps(told), setting.folder)]
