"""Control groups, version 1 and 2, behind one face: a limit is named by what it means.

A machine may have both (hybrid): each controller then sits in one of them. A group's path is written as
``/proc/<pid>/cgroup`` has it, the same in every hierarchy: ``/llm/replica-1``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiobs.errors import PlanError

_MOUNTS = Path("/proc/self/mountinfo")

FILES: Mapping[str, tuple[str, str, str]] = {
    "memory": ("memory", "memory.limit_in_bytes", "memory.max"),
    "memory_and_swap": ("memory", "memory.memsw.limit_in_bytes", ""),
    "swap": ("memory", "", "memory.swap.max"),
    "memory_high": ("memory", "", "memory.high"),
    "memory_usage": ("memory", "memory.usage_in_bytes", "memory.current"),
    "oom": ("memory", "memory.oom_control", "memory.events"),
    "oom_group": ("memory", "", "memory.oom.group"),
    "pids": ("pids", "pids.max", "pids.max"),
    "pids_now": ("pids", "pids.current", "pids.current"),
    "pids_refused": ("pids", "pids.events", "pids.events"),
    "cpu_quota": ("cpu", "cpu.cfs_quota_us", "cpu.max"),
    "cpu_period": ("cpu", "cpu.cfs_period_us", ""),
    "cpu_stat": ("cpu", "cpu.stat", "cpu.stat"),
    "freeze": ("freezer", "freezer.state", "cgroup.freeze"),
    "processes": ("", "cgroup.procs", "cgroup.procs"),
}
"""What a file means: its controller, and its name in version 1 and 2 ("" where that has none)."""


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy: its mount point, its version, its controllers (version 1)."""

    mount: Path
    version: int
    controllers: frozenset[str]


def hierarchies() -> list[Hierarchy]:
    """Every hierarchy that is mounted, version 1 first."""
    found: dict[Path, Hierarchy] = {}
    for line in _MOUNTS.read_text("utf-8").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.partition(" ")
        mount = Path(re.sub(r"\\(\d{3})", lambda it: chr(int(it[1], 8)), left.split()[4]))
        if kind == "cgroup":
            found[mount] = Hierarchy(mount, 1, frozenset(options.split()[-1].split(",")))
        elif kind == "cgroup2":
            found[mount] = Hierarchy(mount, 2, frozenset())
    return sorted(found.values(), key=lambda it: it.version)


@dataclass(frozen=True)
class Cgroup:
    """One control group, in all hierarchies that have it."""

    path: str

    def folder(self, controller: str) -> tuple[Path, int] | None:
        """Where that controller's files of the group are, and which version; None where the machine has it not.

        ``freezer`` and "" (no controller) are found in version 2 as well, which has them built in.
        """
        relative = self.path.strip("/")
        for it in hierarchies():
            if it.version == 1 and (controller in it.controllers if controller else False):
                return it.mount / relative, 1
            if it.version == 2:
                folder = it.mount / relative
                if controller in ("", "freezer") or controller in _words(folder / "cgroup.controllers"):
                    return folder, 2
        return None

    def file(self, meaning: str) -> Path | None:
        """The file with that meaning (a key of FILES), None where there is none."""
        controller, first, second = FILES[meaning]
        found = self.folder(controller)
        if found is None:
            return None
        name = first if found[1] == 1 else second
        return found[0] / name if name and (found[0] / name).exists() else None

    def read(self, meaning: str) -> str | None:
        """The text of that file, None where it is not there."""
        path = self.file(meaning)
        try:
            return None if path is None else path.read_text("utf-8").strip()
        except OSError:
            return None

    def count(self, meaning: str, key: str) -> int:
        """A counter in a file of ``key value`` lines, 0 where it is not there: ``count("oom", "oom_kill")``."""
        for line in (self.read(meaning) or "").splitlines():
            name, _, value = line.partition(" ")
            if name == key and value.strip().isdigit():
                return int(value)
        return 0

    def processes(self) -> list[int]:
        """Pids of its processes, those of its children left out."""
        for it in hierarchies():
            folder = it.mount / self.path.strip("/")
            if folder.is_dir() and folder != it.mount:
                return [int(line) for line in _text(folder / "cgroup.procs").split()]
        return []

    def folders(self) -> list[Path]:
        """Its folder in every hierarchy that has it."""
        return [folder for it in hierarchies() if (folder := it.mount / self.path.strip("/")).is_dir()]

    def require(self, meaning: str) -> Path:
        """The file with that meaning.

        Raises:
            PlanError: this machine or group has none, or it cannot be written.
        """
        path = self.file(meaning)
        if path is None:
            raise PlanError("cgroup", self.path, f"has no {meaning} control here (controller {FILES[meaning][0]})")
        if not os.access(path, os.W_OK):
            raise PlanError("cgroup", self.path, f"{path} cannot be written; become root, or have the group delegated")
        return path


def cgroup_of(pid: int, controller: str) -> str:
    """Path of the group a process is in, for that controller; "/" where it is in none of its own."""
    unified = "/"
    for line in _text(Path(f"/proc/{pid}/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
        if not controllers:
            unified = path
    return unified


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
