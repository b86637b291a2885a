"""A process that can get no more of something the kernel counts: tasks, open files."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aiobs.chaos.enclosed import enclosed
from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.cgroup import PidsLimit
from aiobs.chaos.operations.limits import Soft
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class ProcessExhaust(Fault):
    """No more than what the unit has now, and `headroom` more.

    Attributes:
        what: ``tasks`` (processes and threads together: ``fork`` and thread creation fail with EAGAIN; needs a
            cgroup of its own, so root) or ``files`` (open descriptors: EMFILE; needs no root).
    """

    kind = "process.exhaust"
    certifies = "handling of EAGAIN from fork and thread creation, or of EMFILE from open, accept and socket"
    limits = "a host whose own tables are full"

    what: str = "files"
    headroom: int = 0

    def check(self) -> None:
        if self.what not in ("files", "tasks"):
            raise PlanError("process.exhaust: what", self.what, "use files or tasks")
        if self.headroom < 0:
            raise PlanError("process.exhaust: headroom", self.headroom, "use 0 or more")

    def missing(self, unit: Unit) -> list[str]:
        return enclosed(unit, "pids", "").missing if self.what == "tasks" else []

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        if self.what == "tasks":
            group = enclosed(unit, "pids", setting.injection)
            return [*group.operations, PidsLimit(group.path, self.headroom)]
        return [
            Soft(it.pid, it.start, "RLIMIT_NOFILE", _highest_file(it.pid) + 1 + self.headroom) for it in unit.processes
        ]


def _highest_file(pid: int) -> int:
    """The limit counts numbers, not files: the next open takes the lowest that is free."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(taken) + 1) if number not in taken) - 1
