"""Who is in a node: by its control group, by its mark, and by its network namespace."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from aiobs.chaos.identity import ProcessIdentity, all_processes
from aiobs.chaos.testbed.record import MARK, NODE, BedRecord, NodeRecord


def processes_of(bed: BedRecord, nodes: Iterable[NodeRecord]) -> list[ProcessIdentity]:
    """Every process in these nodes of a testbed, our own keepers left out.

    One may have left its environment or its group behind, but not all three at once. The namespace's number is
    trusted only while its keeper lives: the kernel gives it to another afterwards.
    """
    chosen = list(nodes)
    inodes = {it.namespace for it in chosen if it.keeper and it.keeps().is_alive()}
    names = {it.name for it in chosen}
    grouped = {pid for it in chosen for folder in it.folders for pid in _pids(Path(folder))}
    ours = {os.getpid(), *(it.pid for it in bed.keepers())}
    found = []
    for process in all_processes():
        if process.pid in ours:
            continue
        variables = process.variables()
        marked = variables.get(MARK) == bed.id and variables.get(NODE) in names
        if marked or process.pid in grouped or _inode(process.pid) in inodes:
            found.append(process)
    return found


def _inode(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


def _pids(folder: Path) -> list[int]:
    found = []
    for path in folder.rglob("cgroup.procs") if folder.is_dir() else ():
        try:
            found += [int(it) for it in path.read_text().split()]
        except OSError:
            continue
    return found
