"""A node's control groups: memory, CPU, freezer and number of tasks, in version 1 and 2 at once."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

from aiobs.chaos.cgroups import cgroup_of, hierarchies

CONTROLLERS = frozenset({"memory", "cpu", "freezer", "pids"})


def group_of_node(bed: str, node: str) -> tuple[str, tuple[str, ...]]:
    """Path and folders of a node's group; empty where we may not make any. Only looks."""
    root = os.geteuid() == 0
    home = "" if root else cgroup_of(os.getpid(), "").rstrip("/")
    path = f"{home}/aiobs-testbed-{bed}/{node}"
    folders = []
    for it in hierarchies():
        wanted = it.version == 2 or (root and bool(it.controllers & CONTROLLERS))
        if wanted and os.access(it.mount / home.strip("/"), os.W_OK):
            folders.append(str(it.mount / path.strip("/")))
    return (path, tuple(folders)) if folders else ("", ())


def make_groups(folders: Iterable[str]) -> None:
    """Make them, with what controllers version 2 hands down. Raises OSError."""
    for folder in map(Path, folders):
        folder.parent.mkdir(exist_ok=True)
        for above in (folder.parent.parent, folder.parent):
            for controller in CONTROLLERS & set(_words(above / "cgroup.controllers")):
                try:
                    (above / "cgroup.subtree_control").write_text(f"+{controller}")
                except OSError:
                    continue  # processes sit in that group: what it keeps, the node does without
        folder.mkdir()


def thaw_groups(folders: Iterable[str]) -> None:
    """A frozen task of version 1 does not even die."""
    for folder in map(Path, folders):
        for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            for path in folder.rglob(name):
                try:
                    path.write_text(value)
                except OSError:
                    continue


def remove_groups(folders: Iterable[str], patience_s: float = 2.0) -> list[str]:
    """Remove them with all below; returns what is left."""
    left = []
    for folder in map(Path, folders):
        inner = sorted((it for it in folder.rglob("*") if it.is_dir()), key=lambda it: -len(it.parts))
        left += [f"cgroup {it} is still there" for it in (*inner, folder) if not _removed(it, patience_s)]
        _removed(folder.parent, 0)  # the last node's takes the testbed's with it
    return left


def _removed(folder: Path, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:  # dying tasks still count for a moment
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        else:
            return True


def _words(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split()
    except OSError:
        return []
