"""Plans as experiments of the fidelity standard, judged by the standard's own linter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiobs.chaos.command.verdict import main
from aiobs.chaos.containment.fidelity import _KINDS, fidelity, fidelity_yaml
from aiobs.chaos.fault import fault_kinds
from aiobs.chaos.plan import build_plan
from aiobs.errors import PlanError


def exported(kind: str, **more: Any) -> dict[str, Any]:
    plan = build_plan(
        {"fault": kind, "target": "pid:1", "duration_s": 5, "who": "the platform team", "boundary": "replica a"}
    )
    return fidelity(plan, ["errors < 1 %"], **({"abort": "E >= 100", "evidence": "verdict.json"} | more))


def plannable() -> list[str]:
    found = []
    for kind in _KINDS:
        try:
            build_plan({"fault": kind, "target": "pid:1"})
        except PlanError:
            continue  # needs parameters of its own
        found.append(kind)
    return found


def test_a_fault_without_a_technique_is_refused_by_name() -> None:
    assert set(_KINDS) <= set(fault_kinds())
    without = build_plan({"fault": "noop", "target": "pid:1"})
    with pytest.raises(PlanError, match="noop.*no technique"):
        fidelity(without, ["errors < 1 %"], abort="E >= 100", evidence="verdict.json")


def test_the_standards_linter_accepts_them(tmp_path: Path) -> None:
    linter = shutil.which("chaos-fidelity", path=str(Path(sys.executable).parent)) or shutil.which("chaos-fidelity")
    if linter is None:
        pytest.skip("no chaos-fidelity: pip install ai-cluster-chaos-fidelity")
    kinds = plannable()
    assert {"process.kill", "process.pause", "network.partition", "network.dns"} <= set(kinds)
    for kind in kinds:
        (tmp_path / f"{kind}.yaml").write_text(fidelity_yaml(exported(kind)))
    done = subprocess.run([linter, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") == len(kinds)
    broken = exported("process.kill") | {"undo": ""}
    (tmp_path / "broken.yaml").write_text(fidelity_yaml(broken))
    done = subprocess.run([linter, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, "the linter can fail"


def test_each_fault_of_a_verdict_becomes_an_experiment(scene: Any, tmp_path: Path) -> None:
    linter = shutil.which("chaos-fidelity", path=str(Path(sys.executable).parent)) or shutil.which("chaos-fidelity")
    if linter is None:
        pytest.skip("no chaos-fidelity: pip install ai-cluster-chaos-fidelity")
    scene.replica("a", end=200)
    scene.replica("b", lambda at: 35 <= at < 69 or 135 <= at < 169, end=200)
    scene.fault()
    scene.fault(135, 165, id="f2")
    assert main([*scene.write(), "--fidelity", str(tmp_path / "experiments")]) == 0
    assert {it.name for it in (tmp_path / "experiments").iterdir()} == {"process-kill-f1.yaml", "process-kill-f2.yaml"}
    done = subprocess.run([linter, str(tmp_path / "experiments")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    told = json.loads((tmp_path / "experiments/process-kill-f1.yaml").read_text("utf-8"))
    assert told["verdict"] == "contained"
    assert told["steady_state"] == ["availability: outside no worse by 3 percentage points"]


def test_what_cannot_be_exported_is_named() -> None:
    with pytest.raises(PlanError, match=r"fault='noop'.*no technique"):
        exported("noop")
    with pytest.raises(PlanError, match="abort=''"):
        exported("process.kill", abort="")
