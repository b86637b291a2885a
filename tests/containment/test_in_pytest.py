"""The fixture ``containment``: real faults in real processes, and failures that a person understands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

# Before any test: pytester takes what a test imports out of sys.modules again, and NumPy loads only once.
pytest.importorskip("msgspec", reason="needs msgspec: pip install 'aiobs-sdk[containment]'")
pytest.importorskip("matplotlib.figure", reason="needs matplotlib: pip install 'aiobs-sdk[containment]'")

from aiobs.chaos.containment.asserting import Holding
from aiobs.chaos.containment.trial import Containment
from aiobs.chaos.lease import Injection
from aiobs.chaos.plan import build_plan
from aiobs.errors import PlanError

from .conftest import SPEC, T0

pytest_plugins = ["pytester"]

REPLICA = """
import time
import aiobs
aiobs.init()
while True:
    with aiobs.span("answer"):
        time.sleep(0.005)
"""
REAL = """
boundaries:
  - each: aiobs.replica
slos:
  - apiVersion: openslo/v1
    kind: SLO
    metadata: {name: answers}
    spec:
      indicator: {spec: {thresholdMetric: {metricSource: {type: aiobs, spec: {spans: {span.name: answer}, value: duration}}}}}
      objectives: [{target: 0.95, op: lte, value: 0.8}]
margins: {answers: 0.15}
windows: {guard: 100ms}
"""
TEST = """
import os, pathlib, subprocess, sys, time
import pytest

@pytest.fixture
def replicas(containment):
    started = {}
    for name in "ab":
        about = {"OTEL_RESOURCE_ATTRIBUTES": f"aiobs.replica={name}", "OTEL_SERVICE_NAME": "answers"}
        started[name] = subprocess.Popen([sys.executable, "replica.py"], env=os.environ | about)
    folder = pathlib.Path(os.environ["AIOBS_RUN_DIR"])
    until = time.monotonic() + 60
    while len(answering(folder)) < 2:
        assert time.monotonic() < until, answering(folder)
        time.sleep(0.1)
    yield started
    for process in started.values():
        process.kill()
        process.wait()

def answering(folder):
    lines = [line for path in folder.glob("traces*.jsonl") for line in path.read_text().splitlines() if '"answer"' in line]
    return {name for name in "ab" for line in lines if f'"aiobs.replica","value":{{"stringValue":"{name}"' in line}

def test_the_other_replica_does_not_notice(chaos, containment, replicas):
    with containment("spec.yaml") as run:
        time.sleep(3)
        with chaos("process.pause", f"pid:{replicas['b'].pid}", boundary="aiobs.replica=b"):
            time.sleep(3)
        time.sleep(3)
    found = run.holds()
    assert found
    assert len(found.verdicts) == 1
    assert run.holds() is found
"""


def options() -> list[str]:
    from importlib.metadata import entry_points

    known = "aiobs_chaos" in {it.name for it in entry_points(group="pytest11")}
    return [*([] if known else ["-p", "aiobs.chaos.pytest_plugin"]), "-p", "no:randomly", "-p", "no:cacheprovider"]


def test_a_fault_that_stays_where_it_should(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOBS_ENVIRONMENT", "test")
    monkeypatch.setenv("AIOBS_CHAOS_DIR", str(pytester.path / "chaos"))
    pytester.makefile(".yaml", spec=REAL)
    pytester.makepyfile(replica=REPLICA, test_it=TEST)
    result = pytester.runpytest_subprocess(*options(), "--chaos-armed", "-rs", "test_it.py", timeout=120)
    result.assert_outcomes(passed=1)


def told(scene: Any, **sibling: Any) -> tuple[Path, Path]:
    scene.replica("a", **sibling)
    scene.replica("b", lambda at: 35 <= at < 69)
    scene.fault()
    folder, _, spec = scene.write()
    return Path(spec), Path(folder)


def test_a_failure_shows_verdict_table_and_report(scene: Any, pytester: pytest.Pytester) -> None:
    spec, folder = told(scene, bad=lambda at: 40 <= at < 60)
    pytester.makepyfile(f"""
        def test_it(containment):
            assert containment.holds({str(spec)!r}, {str(folder)!r})
    """)
    result = pytester.runpytest_subprocess(*options(), timeout=60)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        "*assert leaked: Not contained: the fault reached aiobs.replica=a*",
        "*Captured containment call*",
        "leaked: Not contained: the fault reached aiobs.replica=a. Worst: availability of aiobs.replica=a: it got worse by * percentage points*",
        "  process.kill on aiobs.replica=b",
        "  ✗ harmed  aiobs.replica=a  availability  +* pp (+* pp … +* pp), margin 3 pp",
        "report: */containment.html",
    ])  # fmt: skip
    report = re.search(r"^report: (.*)$", result.stdout.str(), re.MULTILINE)
    assert report is not None
    assert "✗ leaked" in Path(report[1]).read_text("utf-8")


def at(second: float) -> int:
    return T0 * 10**9 + round(second * 1e9)


def injection(boundary: str = "aiobs.replica=b", **more: Any) -> Injection:
    plan = build_plan({"fault": "process.pause", "target": "pid:1", "boundary": boundary})
    return Injection(plan, at(35), at(35.1), **({"undone_ns": at(65), "because": "the experiment asked for it"} | more))


def containment(folder: Path, *injected: Injection) -> tuple[Containment, list[Holding]]:
    found: list[Holding] = []
    return Containment(folder, folder, lambda: injected, found.append), found


def test_a_service_that_records_elsewhere_is_judged_by_what_the_test_injected(scene: Any) -> None:
    scene.replica("a")
    scene.replica("b", lambda at: 35 <= at < 69)
    folder, _, spec = scene.write(SPEC.replace("permitted: [aiobs.replica=b]\n", ""))
    fixture, found = containment(Path(folder), injection())
    assert fixture.holds(spec)
    assert [it.kind for it in found[0].verdicts] == ["contained"]
    aborted, _ = containment(Path(folder), injection(because="its watch saw a breach"))
    assert "stopped early: its watch saw a breach" in repr(aborted.holds(spec))


def test_a_fault_on_the_record_is_not_judged_twice(scene: Any) -> None:
    spec, folder = told(scene)
    known = injection()
    object.__setattr__(known.plan, "id", "f1")
    fixture, _ = containment(folder, known)
    assert len(fixture.holds(spec).verdicts) == 1


def test_what_cannot_be_judged_is_said_before_or_instead(scene: Any, tmp_path: Path) -> None:
    spec, folder = told(scene)
    fixture, found = containment(folder, injection(undone_ns=0))
    with pytest.raises(PlanError, match="process.pause.*still held"):
        fixture.holds(spec)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SPEC.replace("boundaries:", "bounds:"))
    reached = False
    with pytest.raises(PlanError, match="bounds"), fixture(wrong):
        reached = True
    assert not reached, "nothing was injected for a spec that cannot be used"
    quiet, _ = containment(folder)
    with quiet(spec) as run, pytest.raises(PlanError, match="leave the `with` block"):
        run.holds()
    # The fault on the record is of another time than this block.
    assert not run.holds()
    assert "nothing was judged" in repr(run.holds())
    assert not found


def test_an_announcement_of_a_long_span_is_no_fault_and_no_request(scene: Any, tmp_path: Path) -> None:
    spec, folder = told(scene)
    lines = (folder / "traces.jsonl").read_text().replace('"name": "fault process.kill"', '"name": "fault process.kill (started)"')  # fmt: skip
    fault = lines.splitlines()[-1].replace("f1", "announced")
    slow = [scene.span(40 + place / 50, 0, name="POST /v1 (started)", bad=True) for place in range(900)]
    scene.groups = []
    scene.spans({"service.name": "llm", "aiobs.replica": "a"}, slow)
    before = (folder / "traces.jsonl").read_text()
    scene.write()
    (folder / "traces.jsonl").write_text(before + (folder / "traces.jsonl").read_text() + fault + "\n")
    fixture, _ = containment(folder)
    found = fixture.holds(spec)
    assert found, repr(found)
    assert len(found.verdicts) == 1
