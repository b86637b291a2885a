"""What faults of checkpoints share: which file, and where its original is kept meanwhile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from aiobs.errors import PlanError

from .fault import Fault, Setting
from .operations.file import Damage, newest
from .target import Unit


@dataclass(frozen=True)
class CheckpointFault(Fault):
    """A fault on the newest file of a folder.

    Attributes:
        pattern: which files, as a glob below the target's folder; the newest of them is taken.
        most_bytes: a bigger file is refused.
    """

    takes: ClassVar[tuple[str, ...]] = ("path",)

    pattern: str = "*"
    most_bytes: int = 4 << 30

    def check(self) -> None:
        if not self.pattern or self.pattern.startswith("/") or ".." in self.pattern.split("/"):
            raise PlanError(f"{self.kind}: pattern", self.pattern, "use a pattern below the folder, such as **/*.pt")
        if self.most_bytes < 1:
            raise PlanError(f"{self.kind}: most_bytes", self.most_bytes, "use at least 1")

    def missing(self, unit: Unit) -> list[str]:
        folder = unit.path if os.path.isdir(unit.path) else os.path.dirname(unit.path)
        return [] if os.access(folder, os.W_OK) else [f"{folder} cannot be written: become its owner, or root"]

    def chosen(self, unit: Unit) -> tuple[str, int]:
        """The file and its size. Raises PlanError: there is none, it is empty or too big."""
        path = newest(unit.path, self.pattern)
        size = os.stat(path).st_size
        if not 0 < size <= self.most_bytes:
            raise PlanError(f"{self.kind}: most_bytes", self.most_bytes, f"{path} has {size} bytes, use a file within")
        return path, size

    def damage(self, path: str, setting: Setting, size: int = -1, bits: tuple[int, ...] = ()) -> Damage:
        """The operation; the original is kept in the session's folder, or beside it where that is another disk."""
        name = f"aiobs-chaos-{setting.injection}"
        private = setting.folder
        if os.path.isdir(private) and os.stat(private).st_dev == os.stat(path).st_dev:
            return Damage(path, f"{private}/{name}", size, bits)
        return Damage(path, f"{os.path.dirname(path)}/.{name}", size, bits)
