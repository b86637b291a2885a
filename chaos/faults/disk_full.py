"""No room on a file system, or none for one process."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.disk import Ballast
from aiobs.chaos.operations.limits import Soft
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError
from aiobs.recorder.location import runtime_path
from aiobs.settings import load_settings


@dataclass(frozen=True)
class DiskFull(Fault):
    """Fill the file system of a path by a file of ours (ENOSPC), or let no file of a process grow beyond a size.

    Attributes:
        how: ``ballast`` (target a path) or ``limit`` (target processes: RLIMIT_FSIZE, which is EFBIG, not ENOSPC).
        spare_bytes: what stays free; with ``limit`` the size no file grows beyond.
        most_bytes: a ballast bigger than that is refused; on a tmpfs it is memory.
        allow_shared: also fill a file system that holds the host's root, the undo journal or the telemetry.
    """

    kind = "disk.full"
    takes = ()
    certifies = "handling of ENOSPC (how=ballast), or of EFBIG (how=limit), in checkpoints, logs and downloads"
    limits = "running out of inodes; with limit also ENOSPC; a program that does not ignore SIGXFSZ is killed by it"

    how: str = "ballast"
    spare_bytes: int = 0
    most_bytes: int = 1 << 30
    allow_shared: bool = False

    def check(self) -> None:
        if self.how not in ("ballast", "limit"):
            raise PlanError("disk.full: how", self.how, "use ballast or limit")
        if self.spare_bytes < 0:
            raise PlanError("disk.full: spare_bytes", self.spare_bytes, "use 0 or more")
        if self.most_bytes < 4096:
            raise PlanError("disk.full: most_bytes", self.most_bytes, "use at least 4096")

    def missing(self, unit: Unit) -> list[str]:
        folder = _folder(unit.path) if unit.path else ""
        if self.how == "ballast" and folder and not os.access(folder, os.W_OK):
            return [f"{folder} cannot be written: become its owner, or root"]
        return []

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        if self.how == "limit":
            if not unit.processes:
                raise PlanError("target", unit.label, "how=limit needs processes; use pid:, tree:, or how=ballast")
            return [Soft(it.pid, it.start, "RLIMIT_FSIZE", self.spare_bytes) for it in unit.processes]
        if not unit.path:
            raise PlanError("target", unit.label, "how=ballast needs a path; use path:/data, or how=limit")
        folder = _folder(unit.path)
        if not self.allow_shared:
            settings = load_settings()
            telemetry = runtime_path(settings)
            for place, what in (("/", "the host's root"), (setting.folder, "the undo journal"),
                                (str(telemetry), "telemetry"), (settings.run_dir or "", "telemetry")):  # fmt: skip
                if place and os.stat(_standing(place)).st_dev == os.stat(folder).st_dev:
                    raise PlanError(
                        "target", unit.label, f"its file system also holds {what} ({place}): use a file system of the "
                        "target's own (a tmpfs, a loop mount), or say allow_shared=true",
                    )  # fmt: skip
        return [Ballast(f"{folder}/.aiobs-chaos-{setting.injection}", self.spare_bytes, self.most_bytes)]


def _folder(path: str) -> str:
    return path if os.path.isdir(path) else os.path.dirname(path)


def _standing(path: str) -> str:
    """The nearest folder on the way to `path` that is there."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
