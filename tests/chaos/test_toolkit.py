"""Real runs of Chaos Toolkit, killed at any moment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aiobs

from .chaos_scene import eventually, state_of

pytest.importorskip("chaoslib", reason="needs Chaos Toolkit: pip install 'aiobs-sdk[chaos]'")
CHAOS = [sys.executable, "-m", "chaostoolkit"]


def experiment(pid: int, hold_s: float = 0.2, **action: Any) -> dict[str, Any]:
    module = "aiobs.chaos.toolkit"
    return {
        "title": "a replica hangs",
        "description": "nobody else notices",
        "runtime": {"rollbacks": {"strategy": "always"}},
        "controls": [{"name": "aiobs", "provider": {"type": "python", "module": f"{module}.control"}}],
        "steady-state-hypothesis": {
            "title": "nothing is broken",
            "probes": [{
                "type": "probe", "name": "clean", "tolerance": True,
                "provider": {"type": "python", "module": f"{module}.probes", "func": "no_residue"},
            }],
        },
        "method": [
            {
                "type": "action", "name": "pause",
                "provider": {
                    "type": "python", "module": f"{module}.actions", "func": "process_pause",
                    "arguments": {"target": f"pid:{pid}", "duration_s": 60, "boundary": "replica", **action},
                },
            },
            {
                "type": "action", "name": "hold",
                "provider": {"type": "python", "module": f"{module}.actions", "func": "hold", "arguments": {"seconds": hold_s}},
            },
            {
                "type": "probe", "name": "acted", "tolerance": True,
                "provider": {"type": "python", "module": f"{module}.probes", "func": "fault_was_effective"},
            },
        ],
        "rollbacks": [{
            "type": "action", "name": "undo",
            "provider": {"type": "python", "module": f"{module}.actions", "func": "undo_faults"},
        }],
    }  # fmt: skip


def run(
    folder: Path, what: dict[str, Any], verb: str = "run"
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    (folder / "experiment.json").write_text(json.dumps(what))
    done = subprocess.run(
        [*CHAOS, "--no-version-check", verb, "experiment.json"], cwd=folder, capture_output=True, text=True, check=False
    )
    journal = folder / "journal.json"
    return done, json.loads(journal.read_text()) if journal.exists() else {}


def test_a_run_injects_and_undoes_and_says_so_in_its_journal(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    done, journal = run(tmp_path, experiment(victim.pid))
    assert (done.returncode, journal["status"], journal["deviated"]) == (0, "completed", False), done.stderr
    (injection,) = journal["aiobs"]["injections"]
    assert injection["fault"] == "process.pause"
    assert injection["boundary"] == "replica"
    assert injection["undone_ns"] > injection["effective_ns"] > 0
    assert journal["aiobs"]["residue"] == []
    assert eventually(lambda: state_of(victim.pid) in "SR")


def test_it_is_valid_and_can_be_discovered(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    done, _ = run(tmp_path, experiment(victim.pid), "validate")
    assert done.returncode == 0, done.stderr
    found = {it["name"]: it for it in aiobs.discover()["activities"]}
    assert {"process_pause", "memory_oom", "network_partition", "undo_faults", "no_residue"} <= set(found)
    arguments = {it["name"]: it for it in found["network_partition"]["arguments"]}
    assert arguments["port"] == {"name": "port", "type": "integer", "default": 0}
    assert "default" not in arguments["target"]


def test_a_run_that_is_not_armed_is_interrupted_before_anything_happens(
    tmp_path: Path, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIOBS_CHAOS")
    done, journal = run(tmp_path, experiment(victim.pid))
    assert done.returncode == 1
    assert journal.get("status") in (None, "interrupted")
    assert "not armed" in done.stdout + done.stderr
    assert journal.get("run", []) == []


def test_a_dry_run_shows_the_operations_and_touches_nothing(
    tmp_path: Path, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOBS_CHAOS_DRY_RUN", "1")
    _, journal = run(tmp_path, experiment(victim.pid))
    output = journal["run"][0]["output"]
    assert output["operations"][0].startswith(f"kill -STOP {victim.pid}")
    assert output["undo"] == [f"kill -CONT {victim.pid}"]
    assert journal["aiobs"]["injections"] == []


def test_a_refused_fault_fails_its_activity_with_the_remedy(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    _, journal = run(tmp_path, experiment(1))
    assert journal["run"][0]["status"] == "failed"
    assert "must not be hit" in journal["run"][0]["exception"][-1]


pytest_plugins = ["pytester"]


def test_the_pytest_plugin_holds_a_fault_and_undoes_it(
    pytester: pytest.Pytester, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"""
        import pytest
        from pathlib import Path

        def state():
            return Path("/proc/{victim.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

        @pytest.fixture
        def replica():
            return "pid:{victim.pid}"

        def test_fixture(chaos):
            with chaos("process.pause", "pid:{victim.pid}"):
                assert state() == "T"
            assert state() != "T"

        @pytest.mark.chaos("process.pause", "fixture:replica", duration_s=9)
        def test_mark():
            assert state() == "T"

        def test_no_effect(chaos):
            chaos("process.kill", "pid:{victim.pid}", signal_name="NOPE")
    """
    options = ["-p", "aiobs.chaos.pytest_plugin", "-p", "no:randomly", "--strict-markers"]
    if "aiobs_chaos" in {it.name for it in _pytest_plugins()}:
        options = options[2:]
    pytester.makepyfile(source)
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*use KILL, TERM*"])
    assert state_of(victim.pid) != "T"
    monkeypatch.delenv("AIOBS_CHAOS")
    result = pytester.runpytest_subprocess(*options, "-rs", "-k", "fixture")
    result.assert_outcomes(skipped=1, deselected=2)
    result.stdout.fnmatch_lines(["*no faults here: not armed*"])
    result = pytester.runpytest_subprocess(*options, "--chaos-armed", "-k", "mark")
    result.assert_outcomes(passed=1, deselected=2)


def _pytest_plugins() -> Any:
    from importlib.metadata import entry_points

    return entry_points(group="pytest11")
