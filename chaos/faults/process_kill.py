"""A process that dies."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.process import Kill
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class ProcessKill(Fault):
    """A deadly signal to every process of the unit, by default SIGKILL, which no handler sees."""

    kind = "process.kill"
    certifies = "the loss of a process, without a chance to say goodbye where the signal is KILL"
    limits = "what led to the death: no GPU error, no out-of-memory before it"

    signal_name: str = "KILL"

    def check(self) -> None:
        if self.signal_name not in ("KILL", "TERM", "INT", "HUP", "QUIT", "ABRT", "SEGV", "BUS"):
            raise PlanError(
                "process.kill: signal_name", self.signal_name, "use KILL, TERM, INT, HUP, QUIT, ABRT, SEGV or BUS"
            )

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        number = int(signal.Signals[f"SIG{self.signal_name}"])
        # Children first: some are set to die with their parent, and would be gone before their turn.
        return [Kill(it.pid, it.start, number) for it in reversed(unit.processes)]
