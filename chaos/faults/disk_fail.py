"""A disk whose operations fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiobs.chaos.disks import DiskFault
from aiobs.errors import PlanError

ERRORS = ("EIO", "ENOSPC", "EROFS", "EDQUOT", "EACCES", "ESTALE", "ETIMEDOUT", "EMFILE")


@dataclass(frozen=True)
class DiskFail(DiskFault):
    """Let operations on the files of a folder fail, by a file system that covers it (FUSE). Needs no root for a folder
    of one's own; then only one's own processes see the folder until the end.

    What fails is not done: no byte of a failed write reaches the disk. With ``after_bytes`` the write that goes beyond
    is done in part first, as on a disk that fills up.

    Attributes:
        folder: the folder, where the target is processes: as they see it. With ``path:`` the target says it.
        on: which operations: open, read, write, fsync, close, change (create, rename, remove, attributes, opening for
            writing), list.
        pattern: which files, as a glob on the path below the folder, or on the name.
        share: of these operations, chosen by the seed.
        after_bytes: so many bytes are read and written first.
        after_count: so many operations are done first.
        times: so many operations are hit at most; 0: all.
        error: EIO, ENOSPC, EROFS, EDQUOT, EACCES, ESTALE, ETIMEDOUT or EMFILE.
        delay_s: each waits so long before it fails, as a disk does that tries again.
    """

    kind = "disk.fail"
    certifies = (
        "handling of errors of single operations: a write or an fsync that fails, a folder that became read-only"
    )
    limits = "files that were open before (they stay on the old disk); reads that the page cache answers; what a real disk loses behind an error; extended attributes, which the folder does not have meanwhile"

    error: str = "EIO"
    delay_s: float = 0.0

    def check(self) -> None:
        super().check()
        if self.error not in ERRORS:
            raise PlanError("disk.fail: error", self.error, f"use {', '.join(ERRORS)}")
        if not 0 <= self.delay_s <= 86400:
            raise PlanError("disk.fail: delay_s", self.delay_s, "use 0 to 86400")

    def strain(self) -> Mapping[str, Any]:
        return {"delay_s": self.delay_s, "jitter_s": 0.0, "rate_bytes": 0.0, "error": self.error}
