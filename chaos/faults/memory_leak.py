"""Memory that goes away bit by bit, beside a program or from under it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiobs.chaos.cgroups import Cgroup
from aiobs.chaos.enclosed import enclosed
from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.faults.memory_limit import private_bytes
from aiobs.chaos.faults.memory_pressure import LARGEST_SHARE, available_bytes
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.limits import Lowered
from aiobs.chaos.operations.memory import Rise
from aiobs.chaos.operations.worker import Run
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class MemoryLeak(Fault):
    """Let the room for memory shrink by `rate_bytes` a second, by `most_bytes` in the end; all of it comes back.

    ``group`` (root): a ballast grows in the unit's control group, or in one of ours made around its processes, and
    counts against that group's limit. ``limit`` (no root): RLIMIT_DATA of each process falls from what it uses plus
    `most_bytes` to what it used: in the end its allocations fail, as in a program whose own leak has taken the room.

    Attributes:
        how: ``group`` or ``limit``.
        rate_bytes: bytes a second.
        most_bytes: bytes in all.
    """

    kind = "memory.leak"
    certifies = "that a leak is noticed while there is time, and what happens when the room is gone"
    limits = "a heap that grows in the program itself (its RSS stays); with group: the kernel's OOM killer takes the ballast first; with limit: nobody is killed and no counter of the kernel moves"

    how: str = "group"
    rate_bytes: float = 16 << 20
    most_bytes: int = 256 << 20

    def check(self) -> None:
        if self.how not in ("group", "limit"):
            raise PlanError("memory.leak: how", self.how, "use group or limit")
        if not 1 <= self.rate_bytes <= 1 << 40:
            raise PlanError("memory.leak: rate_bytes", self.rate_bytes, f"use 1 to {1 << 40}")
        if self.most_bytes < 1 << 16:
            raise PlanError("memory.leak: most_bytes", self.most_bytes, f"use at least {1 << 16}")

    def missing(self, unit: Unit) -> list[str]:
        if self.how == "limit":
            return []
        lacking = [f"{it}; or use how=limit" for it in enclosed(unit, "memory", "").missing]
        available = available_bytes()
        if self.most_bytes > LARGEST_SHARE * available:
            lacking.append(
                f"most_bytes={self.most_bytes} is more than {LARGEST_SHARE:.0%} of the {available} available"
            )
        return lacking

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        seconds = self.most_bytes / self.rate_bytes
        name = f"{setting.injection}-leak-{unit.processes[0].pid}"
        if self.how == "limit":
            used = [private_bytes(it.pid) for it in unit.processes]
            told = {
                "pids": [it.pid for it in unit.processes], "starts": [it.start for it in unit.processes],
                "used": used, "bytes": self.most_bytes, "seconds": seconds,
            }  # fmt: skip
            lowered = [
                Lowered(it.pid, it.start, "RLIMIT_DATA", size + self.most_bytes)
                for it, size in zip(unit.processes, used, strict=True)
            ]
            return [*lowered, Run("squeeze", name, json.dumps(told), setting.folder)]
        group = enclosed(unit, "memory", setting.injection)
        found = Cgroup(group.path).folder("memory")
        if found is None:
            raise PlanError("target", unit.label, "this machine has no memory controller for it")
        told = {"bytes": self.most_bytes, "grow_s": seconds}
        ballast = Run("ballast", name, json.dumps(told), setting.folder, joins=(str(found[0] / "cgroup.procs"),))
        return [*group.operations, Rise(group.path, min(self.most_bytes, 1 << 20)), ballast]
