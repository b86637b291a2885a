"""A disk that answers late, or carries little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiobs.chaos.disks import DiskFault
from aiobs.errors import PlanError


@dataclass(frozen=True)
class DiskSlow(DiskFault):
    """Let operations on the files of a folder wait, by a file system that covers it (FUSE). Needs no root for a folder
    of one's own; then only one's own processes see the folder until the end.

    Attributes:
        folder: the folder, where the target is processes: as they see it. With ``path:`` the target says it.
        on: which operations: open, read, write, fsync, close, change (create, rename, remove, attributes, opening for
            writing), list.
        pattern: which files, as a glob on the path below the folder, or on the name.
        share: of these operations, chosen by the seed.
        after_bytes: so many bytes are read and written first.
        after_count: so many operations are done first.
        times: so many operations are hit at most; 0: all.
        delay_s, jitter_s: each waits so long, give or take. A delay beyond the duration is a disk that hangs.
        rate_bytes: bytes a second of all reads and writes that are hit, together; 0: as fast as it goes.
    """

    kind = "disk.slow"
    certifies = "behaviour while a disk or a checkpoint store is slow, or hangs, for some kinds of operations"
    limits = "files that were open before (they stay on the old disk); reads that the page cache answers; shared writable mappings written back late; extended attributes, which the folder does not have meanwhile; locks against who has the file open from before"

    delay_s: float = 0.0
    jitter_s: float = 0.0
    rate_bytes: float = 0.0

    def check(self) -> None:
        super().check()
        for name, most in (("delay_s", 86400.0), ("jitter_s", 86400.0), ("rate_bytes", 1e12)):
            if not 0 <= getattr(self, name) <= most:
                raise PlanError(f"disk.slow: {name}", getattr(self, name), f"use 0 to {most:g}")
        if self.jitter_s > self.delay_s:
            raise PlanError("disk.slow: jitter_s", self.jitter_s, f"use at most delay_s, {self.delay_s:g}")
        if not self.delay_s and not self.rate_bytes:
            raise PlanError("disk.slow: delay_s", self.delay_s, "would change nothing: give delay_s or rate_bytes")
        if self.rate_bytes and not {"read", "write"} & set(self.on):
            raise PlanError("disk.slow: rate_bytes", self.rate_bytes, "is for read and write: hit at least one of them")

    def strain(self) -> Mapping[str, Any]:
        return {"delay_s": self.delay_s, "jitter_s": self.jitter_s, "rate_bytes": self.rate_bytes, "error": ""}
