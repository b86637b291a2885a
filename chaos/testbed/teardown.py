"""Take a testbed down: its processes, keepers, groups and folder, in any state it may be in, more than once."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.place import Place, lock
from aiobs.chaos.testbed.groups import remove_groups, thaw_groups
from aiobs.chaos.testbed.inside import processes_of
from aiobs.chaos.testbed.record import BedRecord, NodeRecord, beds_folder, read_bed

PATIENCE_S = 5.0


def kill_nodes(bed: BedRecord, nodes: list[NodeRecord], patience_s: float = PATIENCE_S) -> list[str]:
    """Kill every process in these nodes, with what they start meanwhile; returns what still lives."""
    deadline = time.monotonic() + patience_s
    while True:
        for it in nodes:
            for folder in it.folders:
                try:
                    (Path(folder) / "cgroup.kill").write_text("1")
                    break
                except OSError:
                    continue
        found = processes_of(bed, nodes)
        # All are stopped before any dies: none gets to see that another is gone.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in found:
                process.send(number)
        thaw_groups(folder for it in nodes for folder in it.folders)
        if not found or time.monotonic() > deadline:
            return [f"{it} still runs" for it in found]
        time.sleep(0.002)


def take_down(bed: BedRecord) -> list[str]:
    """All of it; returns what is left. The caller holds the testbed's lock."""
    left = kill_nodes(bed, list(bed.nodes))
    for keeper in bed.keepers():
        keeper.send(signal.SIGKILL)
    for it in bed.nodes:
        left += remove_groups(it.folders)
    if not left:
        shutil.rmtree(bed.folder, ignore_errors=True)
    return left


@dataclass(frozen=True)
class Swept:
    """A testbed nobody looked after, and what is left of it."""

    name: str
    residue: tuple[str, ...]


def sweep(place: Place) -> list[Swept]:
    """Take down every testbed whose holder and guard are both gone."""
    found = []
    folder = beds_folder(place)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            held = lock(path / "lock")
        except OSError:
            continue
        if held is None:
            continue
        try:
            bed = read_bed(path)
            if bed is None:
                shutil.rmtree(path, ignore_errors=True)
            else:
                found.append(Swept(bed.name, tuple(take_down(bed))))
        finally:
            os.close(held)
    return found
