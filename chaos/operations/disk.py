"""A full disk: a file of ours takes the room."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.operation import Before, Operation
from aiobs.errors import PlanError

_BLOCK = 4096


@dataclass(frozen=True)
class Ballast(Operation):
    """Take the free room of a file system by a file.

    Attributes:
        path: of the file; it must not be there yet.
        spare_bytes: what stays free; `most_bytes`: a ballast bigger than that is refused.
    """

    kind = "disk.ballast"
    lasting = True

    path: str
    spare_bytes: int
    most_bytes: int

    def _free(self) -> int:
        found = os.statvfs(os.path.dirname(self.path))
        return found.f_frsize * (found.f_bfree if os.geteuid() == 0 else found.f_bavail)

    def describe(self) -> str:
        return f"fallocate {self.path} until {self.spare_bytes} bytes are free"

    def describe_undo(self) -> str:
        return f"rm {self.path}"

    def before(self) -> Before:
        if os.path.lexists(self.path):
            raise PlanError("disk.full", self.path, "exists already and is not ours; choose another injection id")
        free = self._free()
        if free <= self.spare_bytes:
            raise PlanError("disk.full: spare_bytes", self.spare_bytes, f"only {free} bytes are free already; use less")
        if free - self.spare_bytes > self.most_bytes:
            raise PlanError(
                "disk.full: most_bytes", self.most_bytes,
                f"the ballast would be {free - self.spare_bytes} bytes; raise it, or use a smaller file system",
            )  # fmt: skip
        return {"free": free}

    def act(self, before: Before) -> None:  # noqa: ARG002
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size, step = 0, self.most_bytes
            while (room := self._free() - self.spare_bytes) > 0 and size < self.most_bytes:
                step = min(step, room, self.most_bytes - size)
                try:
                    os.posix_fallocate(descriptor, size, step)
                    size += step
                except OSError as error:  # the file system keeps some for itself: take what it gives
                    if error.errno != errno.ENOSPC:
                        raise
                    if step < _BLOCK:
                        break
                    step //= 2
        finally:
            os.close(descriptor)

    def effective(self, before: Before) -> str:
        free = self._free()
        if free <= self.spare_bytes + 2 * _BLOCK:
            return f"statvfs of {os.path.dirname(self.path)}: {free} bytes free, there were {before['free']}"
        return ""

    def undo(self, before: Before) -> None:  # noqa: ARG002
        Path(self.path).unlink(missing_ok=True)

    def residue(self, before: Before) -> str:  # noqa: ARG002
        return f"{self.path} is still there" if os.path.lexists(self.path) else ""
