"""The verdict in an assertion, and as the tolerance of a real run of Chaos Toolkit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiobs.chaos.containment.asserting import Holding, holds


def told(scene: Any, **sibling: Any) -> tuple[Path, Path]:
    scene.replica("a", **sibling)
    scene.replica("b", lambda at: 35 <= at < 69)
    scene.fault()
    folder, _, spec = scene.write()
    return Path(spec), Path(folder)


def test_an_assertion_that_holds(scene: Any) -> None:
    assert holds(*told(scene))


def test_a_failure_names_what_leaked(scene: Any) -> None:
    found = holds(*told(scene, bad=lambda at: 40 <= at < 60))
    assert not found
    with pytest.raises(AssertionError, match=r"leaked: Not contained: the fault reached aiobs\.replica=a"):
        assert found, repr(found)


def test_no_verdict_is_no_pass() -> None:
    assert not Holding(())


@pytest.mark.parametrize(("leaks", "code"), [(False, 0), (True, 1)])
def test_a_run_of_chaos_toolkit_deviates_with_the_verdict(scene: Any, tmp_path: Path, leaks: bool, code: int) -> None:
    pytest.importorskip("chaoslib", reason="needs Chaos Toolkit: pip install 'aiobs-sdk[chaos]'")
    spec, folder = told(scene, **({"bad": lambda at: 40 <= at < 60} if leaks else {}))
    provider = {
        "type": "python", "module": "aiobs.chaos.toolkit.verdict", "func": "contained",
        "arguments": {"folder": str(folder), "spec": str(spec)},
    }  # fmt: skip
    probe = {"type": "probe", "name": "contained", "tolerance": True, "provider": provider}
    what = {
        "title": "contained", "description": "nobody else notices", "method": [],
        "steady-state-hypothesis": {"title": "it stayed where it should", "probes": [probe]},
    }  # fmt: skip
    (tmp_path / "experiment.json").write_text(json.dumps(what))
    done = subprocess.run(
        [sys.executable, "-m", "chaostoolkit", "--no-version-check", "run", "--hypothesis-strategy", "after-method-only", "experiment.json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("the fault reached aiobs.replica=a" in done.stdout + done.stderr) is leaks
