"""Processes: one pid, a whole tree, or the pid in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.identity import ProcessIdentity, tree
from aiobs.chaos.target import Target, Unit
from aiobs.errors import PlanError


def process_of(target: Target, text: str) -> ProcessIdentity:
    """The process whose pid `text` is.

    Raises:
        PlanError: it is no pid, or no process has it.
    """
    if not text.isdigit() or int(text) < 1:
        raise PlanError("target", str(target), "a pid is a whole number, at least 1")
    try:
        return ProcessIdentity.of(int(text))
    except ProcessLookupError:
        raise PlanError("target", str(target), "no process has that pid; look with  ps -e") from None


@dataclass(frozen=True)
class Pid(Target):
    """One process."""

    scheme = "pid"
    example = "4711"

    def resolve(self) -> list[Unit]:
        process = process_of(self, self.value)
        return [Unit(str(process), (process,), namespace=f"/proc/{process.pid}/ns/net")]


@dataclass(frozen=True)
class Tree(Target):
    """A process with all its descendants, as one unit."""

    scheme = "tree"
    example = "4711"

    def resolve(self) -> list[Unit]:
        root = process_of(self, self.value)
        return [Unit(f"tree of {root}", tuple(tree(root)), namespace=f"/proc/{root.pid}/ns/net")]


@dataclass(frozen=True)
class PidFile(Target):
    """The process whose pid stands in a file, with its descendants."""

    scheme = "pidfile"
    example = "/run/service.pid"

    def resolve(self) -> list[Unit]:
        try:
            text = Path(self.value).read_text("utf-8").strip()
        except OSError as error:
            raise PlanError("target", str(self), f"cannot be read: {error.strerror}") from error
        root = process_of(self, text)
        return [Unit(f"{self.value} ({root})", tuple(tree(root)), namespace=f"/proc/{root.pid}/ns/net")]
