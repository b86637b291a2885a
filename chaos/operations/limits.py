"""Resource limits of a running process (``prlimit``): the soft limit is pulled down, and put back."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.operation import Before, Operation
from aiobs.errors import PlanError


@dataclass(frozen=True)
class Soft(Operation):
    """Set one soft limit of a process.

    Attributes:
        name: of the limit, as in :mod:`resource`: ``RLIMIT_DATA``.
        value: the new soft limit; the hard one stays, so that whoever owns the process can put it back.
    """

    kind = "limits.soft"

    pid: int
    start: int
    name: str
    value: int

    @property
    def process(self) -> ProcessIdentity:
        """The process it is about."""
        return ProcessIdentity(self.pid, self.start)

    def _limit(self) -> tuple[int, int] | None:
        if not self.process.is_alive():
            return None
        try:
            return resource.prlimit(self.pid, getattr(resource, self.name))
        except ProcessLookupError:
            return None

    def describe(self) -> str:
        return f"prlimit --pid {self.pid} {self.name} soft={self.value}  ({self.process})"

    def describe_undo(self) -> str:
        return f"prlimit --pid {self.pid} {self.name} soft=<what it was>"

    def before(self) -> Before:
        found = self._limit()
        if found is None:
            raise PlanError("target", f"pid {self.pid}", "that process is gone; choose the target again")
        if found[0] != resource.RLIM_INFINITY and found[0] <= self.value:
            raise PlanError("target", f"pid {self.pid}", f"its {self.name} is {found[0]} already, no higher than asked")
        return {"soft": found[0], "hard": found[1]}

    def act(self, before: Before) -> None:
        resource.prlimit(self.pid, getattr(resource, self.name), (self.value, int(before["hard"])))

    def effective(self, before: Before) -> str:  # noqa: ARG002
        found = self._limit()
        return f"{self.name} of {self.process} is {self.value}" if found is not None and found[0] == self.value else ""

    def undo(self, before: Before) -> None:
        found = self._limit()
        if found is not None and found[0] == self.value:
            resource.prlimit(self.pid, getattr(resource, self.name), (int(before["soft"]), found[1]))

    def residue(self, before: Before) -> str:
        found = self._limit()
        if found is None or found[0] == before["soft"]:
            return ""
        return f"{self.name} of {self.process} is {found[0]}, it was {before['soft']}"


@dataclass(frozen=True)
class Lowered(Soft):
    """The same, for a limit that a worker lowers further from there."""

    kind = "limits.lowered"

    def undo(self, before: Before) -> None:
        found = self._limit()
        if found is not None and found[0] <= self.value:  # a higher one somebody else has set since
            resource.prlimit(self.pid, getattr(resource, self.name), (int(before["soft"]), found[1]))

    def effective(self, before: Before) -> str:  # noqa: ARG002
        found = self._limit()
        if found is None:
            return f"{self.process} is gone"
        return f"{self.name} of {self.process} is {found[0]}" if 0 <= found[0] <= self.value else ""
