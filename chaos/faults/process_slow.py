"""A straggler: a process that gets only a part of the CPU."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiobs.chaos.enclosed import enclosed
from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.cgroup import CpuQuota
from aiobs.chaos.operations.process import Resume
from aiobs.chaos.operations.worker import Run
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class ProcessSlow(Fault):
    """Let the unit use no more than `share` of one core.

    With the kernel's CPU quota where that can be had (exact, children included), else by stopping and continuing
    it in turns (``how="turns"``), which needs no rights but those over the process.

    Attributes:
        share: of one core, above 0 and at most 1.
        period_s: how often it gets its share; it stalls for the rest of each period.
        how: ``quota``, ``turns``, or ``auto``.
    """

    kind = "process.slow"
    certifies = "handling of a process that is slow for want of CPU"
    limits = "what made it slow: no thermal throttling, no slow memory; turns stop all threads at once"

    share: float = 0.2
    period_s: float = 0.1
    how: str = "auto"

    def check(self) -> None:
        if not 0 < self.share <= 1:
            raise PlanError("process.slow: share", self.share, "use a share of one core above 0 and at most 1")
        if not 0.01 <= self.period_s <= 1:
            raise PlanError("process.slow: period_s", self.period_s, "use 0.01 to 1 second")
        if self.how not in ("auto", "quota", "turns"):
            raise PlanError("process.slow: how", self.how, "use auto, quota or turns")

    def missing(self, unit: Unit) -> list[str]:
        return enclosed(unit, "cpu", "").missing if self.how == "quota" else []

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        group = enclosed(unit, "cpu", setting.injection)
        if self.how == "quota" or (self.how == "auto" and not group.missing):
            return [*group.operations, CpuQuota(group.path, self.share, self.period_s)]
        told = {
            "pids": [it.pid for it in unit.processes], "starts": [it.start for it in unit.processes],
            "share": self.share, "period_s": self.period_s,
        }  # fmt: skip
        # Resume comes first, so that it is undone last: nobody stops a process after it has been continued.
        resumed: list[Operation] = [Resume(it.pid, it.start) for it in unit.processes]
        return [
            *resumed,
            Run("turns", f"{setting.injection}-turns-{unit.processes[0].pid}", json.dumps(told), setting.folder),
        ]
