"""Experiments of random shape, told in random accents, whose truth is known: the verdict must be a right one.

``AIOBS_SCENARIOS=200 pytest tests/containment/test_scenarios.py`` judges more of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aiobs.chaos.containment.judging import judge_faults
from aiobs.chaos.containment.run_folder import RunFolder
from aiobs.chaos.containment.spec import read_spec

from .scenarios import make

CLOSE_S = 0.6
"""So near to the scripted outage its measured end must lie; half of the requests fail in the thinnest."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("AIOBS_SCENARIOS", "8"))))
def test_the_verdict_is_true(seed: int, tmp_path: Path) -> None:
    truth = make(seed, tmp_path / "run")
    source = RunFolder(tmp_path / "run", read_spec(tmp_path / "run/spec.json"))
    (verdict,) = judge_faults(source, source.faults())
    source.close()
    assert verdict.kind in truth.may, (truth.story, verdict.sentence)
    if verdict.kind == "leaked":
        assert verdict.strata == truth.leaks, truth.story
    if truth.recovery is not None:
        inside = [it for it in verdict.recoveries if it.side == "inside"]
        assert abs(max(it.first_good_s for it in inside) - truth.recovery) < CLOSE_S + 0.4 * (truth.recovery == 0)
