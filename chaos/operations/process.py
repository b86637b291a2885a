"""Signals: stop and continue a process, or end it."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.operation import Before, Operation
from aiobs.errors import PlanError

_STOPPED = "T"


@dataclass(frozen=True)
class _OnProcess(Operation):
    pid: int
    start: int

    @property
    def process(self) -> ProcessIdentity:
        """The process it is about."""
        return ProcessIdentity(self.pid, self.start)

    def before(self) -> Before:
        """Its state."""
        state = self.process.state()
        if not state:
            raise PlanError("target", f"pid {self.pid}", "that process is gone; choose the target again")
        return {"state": state}


@dataclass(frozen=True)
class Resume(_OnProcess):
    """Nothing now; undone, the process is continued. For workers that stop it in turns and may die in between."""

    kind = "process.resume"

    def describe(self) -> str:
        return f"see to it that {self.process} runs in the end"

    def describe_undo(self) -> str:
        return f"kill -CONT {self.pid}"

    def act(self, before: Before) -> None:
        pass

    def effective(self, before: Before) -> str:  # noqa: ARG002
        return f"{self.process} will run in the end"

    def undo(self, before: Before) -> None:
        if before["state"] != _STOPPED:
            self.process.send(signal.SIGCONT)

    def residue(self, before: Before) -> str:
        if before["state"] != _STOPPED and self.process.state() == _STOPPED:
            return f"{self.process} is still stopped"
        return ""


@dataclass(frozen=True)
class Stop(Resume):
    """SIGSTOP; SIGCONT undoes it. A process that was stopped before is refused."""

    kind = "process.stop"

    def describe(self) -> str:
        return f"kill -STOP {self.pid}  ({self.process})"

    def before(self) -> Before:
        before = super().before()
        if before["state"] == _STOPPED:
            raise PlanError("target", f"pid {self.pid}", "is stopped already, so stopping it would prove nothing")
        return before

    def act(self, before: Before) -> None:  # noqa: ARG002
        self.process.send(signal.SIGSTOP)

    def effective(self, before: Before) -> str:  # noqa: ARG002
        return f"{self.process} is in state T" if self.process.state() == _STOPPED else ""


@dataclass(frozen=True)
class Kill(_OnProcess):
    """A signal that ends the process. There is nothing to undo: whoever supervises it restarts it."""

    kind = "process.kill"

    number: int = signal.SIGKILL

    def before(self) -> Before:
        """Its state, "" where it has ended since it was chosen, such as with its parent."""
        return {"state": self.process.state()}

    def describe(self) -> str:
        return f"kill -{signal.Signals(self.number).name.removeprefix('SIG')} {self.pid}  ({self.process})"

    def describe_undo(self) -> str:
        return "nothing: its supervisor restarts it, or not"

    def act(self, before: Before) -> None:  # noqa: ARG002
        self.process.send(signal.Signals(self.number))

    def effective(self, before: Before) -> str:
        if self.process.is_alive():
            return ""
        return f"pid {self.pid} is gone" if before["state"] else f"pid {self.pid} had ended just before"

    def undo(self, before: Before) -> None:
        pass

    def residue(self, before: Before) -> str:  # noqa: ARG002
        return ""
