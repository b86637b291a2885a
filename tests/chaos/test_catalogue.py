"""The experiments in examples/chaos: valid, documented, and each with its verdict on the reference service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aiobs.chaos.containment.spec import read_spec

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "chaos"))
import catalogue

pytest.importorskip("chaoslib", reason="needs Chaos Toolkit: pip install 'aiobs-sdk[chaos]'")
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "chaos"
EXPERIMENTS = sorted(FOLDER.glob("*.json"))

BEFORE_S, FAULT_S = 5.0, 5.0


@pytest.fixture
def scene_folder(tmp_path: Path) -> Path:
    """For the run of a scene, where all that it needs is installed."""
    for needed in ("duckdb", "scipy", "torch", "fastapi", "uvicorn", "httpx", "sklearn"):
        pytest.importorskip(needed)
    return tmp_path / "RUN"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_it_is_valid_and_has_a_spec(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaostoolkit", "--no-version-check", "validate", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = catalogue.told_by(path.stem)
    spec = read_spec(FOLDER / told["spec"])
    method = json.loads(path.read_text())["method"]
    permitted = method[1]["provider"]["arguments"]["boundary"]
    assert any(permitted == it.name or permitted.startswith(f"{it.name}=") for it in spec.boundaries)
    assert set(told["expected"]) == {catalogue.WITH, catalogue.WITHOUT}


def test_every_spec_is_an_experiments() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {catalogue.told_by(it)["spec"] for it in catalogue.names()}


def test_the_page_says_what_the_experiments_say() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text("utf-8")
    rows = {
        row[1]: (row[2], row[3])
        for row in re.finditer(r"^\| `(\w+)` \|.*\| (\w[\w ]*) \| (\w[\w ]*) \|[^|]*\|$", page, re.MULTILINE)
    }
    told = {name: catalogue.told_by(name)["expected"] for name in catalogue.names()}
    assert rows == {name: (it[catalogue.WITH], it[catalogue.WITHOUT]) for name, it in told.items()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_fault_stays_where_it_should(scene_folder: Path) -> None:
    outcomes = catalogue.run(scene_folder, catalogue.names(), before_s=BEFORE_S, fault_s=FAULT_S)
    print(*outcomes, sep="\n")
    assert all(it.as_expected for it in outcomes), "\n".join(map(str, outcomes))
    assert {it.expected for it in outcomes} == {"contained"}
    skipped = {it.name: it.why for it in outcomes if it.skipped}
    if os.geteuid() != 0:
        pytest.skip(f"{len(outcomes) - len(skipped)} were as expected; not run: {skipped}")
    assert not skipped, "as root nothing is left out"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_same_fault_leaks_where_there_are_no_bulkheads(scene_folder: Path) -> None:
    outcomes = catalogue.run(scene_folder, ["poisoned_request"], bulkheads=False, before_s=BEFORE_S, fault_s=FAULT_S)
    (found,) = outcomes
    assert found.verdict is not None, found.why
    assert found.verdict.kind == "leaked", found
    assert {"aiobs.tenant=blue", "aiobs.tenant=green"} & set(found.verdict.strata)
