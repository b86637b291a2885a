"""A process that hangs: stopped, with its sockets and memory held."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.process import Stop
from aiobs.chaos.target import Unit


@dataclass(frozen=True)
class ProcessPause(Fault):
    """SIGSTOP to every process of the unit, SIGCONT at the end."""

    kind = "process.pause"
    certifies = "peers notice a process that no longer answers while its connections stay open"
    limits = "a hang that cannot be killed: SIGKILL works on a stopped process"

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        # The root of a tree first, so that it cannot react to its children's silence.
        return [Stop(it.pid, it.start) for it in unit.processes]
