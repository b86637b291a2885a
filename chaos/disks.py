"""What faults of a disk share: which folder, which operations and files, and what a machine needs for them."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from aiobs.errors import PlanError
from aiobs.recorder.location import runtime_path
from aiobs.settings import load_settings

from .fault import Fault, Setting
from .mounts import namespace_of
from .operation import Operation
from .operations.cover import Cover
from .target import Unit
from .targets.path import SYSTEM
from .workers.strain import KINDS


@dataclass(frozen=True)
class DiskFault(Fault):
    """A folder that is covered by a file system of ours.

    Attributes:
        folder: the folder, where the target is processes: as they see it. With ``path:`` the target says it.
        on: which operations: open, read, write, fsync, close, change (create, rename, remove, attributes, opening
            for writing), list.
        pattern: which files, as a glob on the path below the folder, or on the name.
        share: of these operations, chosen by the seed.
        after_bytes: so many bytes are read and written first.
        after_count: so many operations are done first.
        times: so many operations are hit at most; 0: all.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    folder: str = ""
    on: tuple[str, ...] = ("read", "write", "fsync")
    pattern: str = "*"
    share: float = 1.0
    after_bytes: int = 0
    after_count: int = 0
    times: int = 0

    def check(self) -> None:
        if unknown := set(self.on) - set(KINDS):
            raise PlanError(f"{self.kind}: on", ",".join(sorted(unknown)), f"use {', '.join(KINDS)}")
        if not self.on:
            raise PlanError(f"{self.kind}: on", "", f"name at least one of {', '.join(KINDS)}")
        if not self.pattern:
            raise PlanError(f"{self.kind}: pattern", self.pattern, "use a glob such as *.pt; * for all")
        if not 0 < self.share <= 1:
            raise PlanError(f"{self.kind}: share", self.share, "use more than 0, at most 1")
        for name in ("after_bytes", "after_count", "times"):
            if getattr(self, name) < 0:
                raise PlanError(f"{self.kind}: {name}", getattr(self, name), "use 0 or more")
        if self.folder and not os.path.isabs(self.folder):
            raise PlanError(f"{self.kind}: folder", self.folder, "write an absolute path")

    def strain(self) -> Mapping[str, Any]:
        """What happens to an operation that is hit: delay_s, jitter_s, rate_bytes, error."""
        raise NotImplementedError

    def missing(self, unit: Unit) -> list[str]:
        lacking = []
        if find_spec("mfusepy") is None:
            lacking.append("mfusepy is not installed: pip install 'aiobs-sdk[disks]'")
        if ctypes.util.find_library("fuse3") is None:
            lacking.append("libfuse is not installed: install the package fuse3")
        if not os.path.exists("/dev/fuse"):
            lacking.append("there is no /dev/fuse: the kernel has no FUSE, or this container was not given the device")
        if os.geteuid() != 0:
            if shutil.which("fusermount3") is None:
                lacking.append("fusermount3 is not installed: install the package fuse3, or become root")
            for _, path, inode in self._places(unit):
                if inode != namespace_of():
                    lacking.append(f"{path} is in another mount namespace: become root")
                elif not os.access(path, os.W_OK):
                    lacking.append(f"{path} cannot be written: only its owner, or root, may cover it")
        return lacking

    def _places(self, unit: Unit) -> list[tuple[str, str, int]]:
        """A process that is there, the folder as it sees it, and the mount namespace: one for each namespace."""
        if not self.folder:
            if not unit.path:
                raise PlanError(
                    "target", unit.label, "which folder of these processes? Give folder=, or use path:/data"
                )
            return [("self", unit.path, namespace_of())]
        if not unit.processes:
            raise PlanError(f"{self.kind}: folder", self.folder, "is for processes; path: names the folder itself")
        found: dict[int, tuple[str, str, int]] = {}
        own = namespace_of()
        for it in unit.processes:
            try:
                inode = namespace_of(it.pid)
            except OSError:
                continue
            found.setdefault(inode, ("self" if inode == own else str(it.pid), os.path.normpath(self.folder), inode))
        if not found:
            raise PlanError("target", unit.label, "these processes are gone; choose the target again")
        return list(found.values())

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        covers: list[Operation] = []
        for number, (process, path, inode) in enumerate(self._places(unit)):
            self._look(process, path, setting.folder)
            source = f"aiobs-chaos-{setting.injection}-{number}"
            told = {
                "path": path, "source": source, "process": process, "on": list(self.on),
                "pattern": self.pattern, "share": self.share, "seed": setting.random.random(),
                "after_bytes": self.after_bytes, "after_count": self.after_count, "times": self.times,
                **self.strain(),
            }  # fmt: skip
            name = f"{setting.injection}-cover-{number}"
            covers.append(
                Cover("cover", name, json.dumps(told), setting.folder, path=path, source=source, namespace=inode)
            )
        return covers

    def _look(self, process: str, path: str, session: str) -> None:
        if path in SYSTEM:
            raise PlanError("target", path, "is everybody's; name the target's own folder in it")
        if not os.path.isdir(path if process == "self" else f"/proc/{process}/root{path}"):
            raise PlanError("target", path, "is no folder; name the folder, and give pattern=<the file's name>")
        if process != "self":
            return
        for place, what in ((session, "the undo journal"), (str(runtime_path(load_settings())), "flight records")):
            if Path(place).resolve().is_relative_to(path):
                raise PlanError(
                    "target", path, f"holds {what} ({place}), which no fault may hit: name a folder beside it"
                )
