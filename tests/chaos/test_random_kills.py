"""Whoever is killed at whatever moment: the machine is as it was.

``AIOBS_TRIALS=500 pytest tests/chaos/test_random_kills.py`` runs so many trials in all, AIOBS_SEED chooses them,
AIOBS_KILL_LOG names a file for what became of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from aiobs.chaos.fault import fault_kinds

from .kill_cases import KillCase, all_cases, lacking
from .kill_scenes import scene, small_disk
from .kill_trial import Zygote, trial

TRIALS = int(os.environ.get("AIOBS_TRIALS", "0"))
SEED = int(os.environ.get("AIOBS_SEED", "1"))
LOG = os.environ.get("AIOBS_KILL_LOG", "")
CASES = all_cases()
ABLE = sum(not lacking(it) for it in CASES)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    it = Zygote()
    yield it
    it.close()


def test_every_fault_there_is_has_a_case() -> None:
    assert {it.fault for it in CASES} == set(fault_kinds())


@pytest.mark.timeout(0 if TRIALS else 120)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_left_whoever_is_killed_when(
    tmp_path: Path, chaos_place: Path, zygote: Zygote, case: KillCase
) -> None:
    if reason := lacking(case):
        pytest.skip(reason)
    random = Random(f"{SEED}:{case}")
    steps = 10
    with small_disk(tmp_path / "disk") as disk:
        there = scene(case.scene, tmp_path / "scene", disk, random)
        try:
            for _ in range(max(1, -(-TRIALS // ABLE))):
                outcome, steps = trial(case, there, zygote, random, chaos_place, steps)
                if LOG:
                    with open(LOG, "a", encoding="utf-8") as file:
                        file.write(outcome.line() + "\n")
        finally:
            there.close()
