"""Every fault acts on something real and is undone, as whoever runs this: root, or an ordinary user."""

from __future__ import annotations

from pathlib import Path
from random import Random

from aiobs import chaos
from aiobs.chaos.identity import all_processes
from aiobs.errors import AiobsError

from .chaos_scene import eventually, world
from .kill_cases import KillCase, all_cases, lacking
from .kill_scenes import KINDS, Scene, scene, small_disk


def test_every_fault_acts_and_is_undone(tmp_path: Path) -> None:
    wrong: dict[str, object] = {}
    with small_disk(tmp_path / "disk") as disk, chaos.Lease() as lease:
        for kind in KINDS:
            there = scene(kind, tmp_path / kind, disk, Random(kind))
            try:
                for case in all_cases():
                    if case.scene == kind and not lacking(case) and (what := tried(case, there, lease)):
                        wrong[str(case)] = what
            finally:
                there.close()
    assert wrong == {}, wrong


def tried(case: KillCase, there: Scene, lease: chaos.Lease) -> object:
    """What went wrong, "" or nothing where all went well."""
    there.renew()
    before, state = world(), there.state()
    fault, target, parameters = there.told(case)
    try:
        with chaos.inject(fault, target, lease=lease, **parameters) as injection:
            if not all(injection.evidence) or (not injection.evidence and fault != "noop"):
                return "no evidence"
    except AiobsError as error:
        return error
    left: dict[str, object] = {}

    def gone() -> bool:
        left.clear()
        left.update({key: it for key, it in world().items() if key not in ("stopped", "workers") and it != before[key]})
        left.update(there.left(state))
        if workers := [it for it in all_processes() if "AIOBS_CHAOS_WORKER" in it.variables()]:
            left["workers"] = workers
        return not left

    eventually(gone, 3)
    return left
