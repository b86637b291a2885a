"""Memory pressure: somebody else takes memory, on the host or in the target's own group."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.cgroups import Cgroup
from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.worker import Run
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

LARGEST_SHARE = 0.9
"""Of what is available: more would be an out-of-memory fault of the host, which has no boundary."""


@dataclass(frozen=True)
class MemoryPressure(Fault):
    """A ballast of `ballast_bytes`, at once or growing over `grow_s` (a leak), released at the end.

    With a target that has a cgroup the ballast sits in that group and counts against its limit; else on the host.

    Attributes:
        ballast_bytes: at most 90 % of what the host has available.
        grow_s: seconds until it has all of it; 0: at once.
    """

    kind = "memory.pressure"
    takes = ()
    certifies = "behaviour under memory pressure, and with a leak in the same group"
    limits = "a leak inside the program itself; the ballast offers itself to the OOM killer first (oom_score_adj 1000)"

    ballast_bytes: int = 256 << 20
    grow_s: float = 0.0

    def check(self) -> None:
        if self.ballast_bytes < 1:
            raise PlanError("memory.pressure: ballast_bytes", self.ballast_bytes, "use at least 1")
        if self.grow_s < 0:
            raise PlanError("memory.pressure: grow_s", self.grow_s, "use 0 or more")

    def missing(self, unit: Unit) -> list[str]:  # noqa: ARG002
        available = available_bytes()
        if self.ballast_bytes > LARGEST_SHARE * available:
            return [f"ballast_bytes={self.ballast_bytes} is more than {LARGEST_SHARE:.0%} of the {available} available"]
        return []

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        joins: tuple[str, ...] = ()
        if unit.cgroup:
            found = Cgroup(unit.cgroup).folder("memory")
            if found is None:
                raise PlanError("target", unit.cgroup, "this machine has no memory controller for it")
            joins = (str(found[0] / "cgroup.procs"),)
        told = {"bytes": self.ballast_bytes, "grow_s": self.grow_s}
        return [Run("ballast", f"{setting.injection}-ballast", json.dumps(told), setting.folder, joins=joins)]


def available_bytes() -> int:
    """Memory that the host could still give away."""
    for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0
