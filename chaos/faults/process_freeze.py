"""A process that hangs inside the kernel: frozen, in version 1 beyond the reach of SIGKILL."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.enclosed import enclosed
from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.cgroup import Freeze
from aiobs.chaos.target import Unit


@dataclass(frozen=True)
class ProcessFreeze(Fault):
    """The freezer holds every task of the unit, threads and children that start meanwhile included."""

    kind = "process.freeze"
    root = True
    certifies = "peers notice a process that hangs beyond the reach of signals (cgroup version 1)"
    limits = "a process stuck in a driver: a frozen one holds no kernel lock; version 2 lets SIGKILL through"

    def missing(self, unit: Unit) -> list[str]:
        return enclosed(unit, "freezer", "").missing

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        group = enclosed(unit, "freezer", setting.injection)
        return [*group.operations, Freeze(group.path)]
