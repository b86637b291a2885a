"""Out of memory, by the kernel's OOM killer, in a group of its own."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.enclosed import enclosed
from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.memory import Limit
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class MemoryOom(Fault):
    """Pull the memory limit of the unit's group down to its usage: what next needs memory is killed by the kernel.

    Effective once the kernel has killed, so give ``effect_s`` the time the program needs to want more memory.

    Attributes:
        headroom_bytes: what it may still take.
        stall: do not kill: tasks that need memory sleep until the fault ends.
    """

    kind = "memory.oom"
    root = True
    certifies = "the kernel's OOM kill (or a memory stall) of one group, with its exit code 137 and its counters"
    limits = "running out of memory of the whole host, or of a GPU"

    headroom_bytes: int = 1 << 20
    stall: bool = False

    def check(self) -> None:
        if self.headroom_bytes < 0:
            raise PlanError("memory.oom: headroom_bytes", self.headroom_bytes, "use 0 or more")

    def missing(self, unit: Unit) -> list[str]:
        return enclosed(unit, "memory", "").missing

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        group = enclosed(unit, "memory", setting.injection)
        return [*group.operations, Limit(group.path, self.headroom_bytes, self.stall)]
