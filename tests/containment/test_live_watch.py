"""A watch on synthetic live telemetry: it stops for harm, silence and lost telemetry, and for nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from aiobs.chaos.containment.limits import Ordinary, watchers
from aiobs.chaos.containment.model import Slo, Spec
from aiobs.chaos.containment.sources.observed import Observed
from aiobs.chaos.containment.spec import read_spec
from aiobs.chaos.containment.watch import Watch
from aiobs.chaos.plan import Plan, build_plan
from aiobs.errors import ArmError, PlanError, RecordError

from .conftest import SPEC

SEED = 20261124


class Wire:
    """Live telemetry that the test speaks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: list[bytes] = []
        self.broken = ""
        self._new: list[Observed] = []
        self._lock = threading.Condition()
        self._count = 0

    def say(self, replica: str, bad: bool = False, key: str = "", at_ns: int = 0, **more: str) -> None:
        with self._lock:
            self._count += 1
            now = at_ns or time.time_ns()
            code = "503" if bad else "200"
            self._new.append(Observed(key or str(self._count), "POST /v1", "server", now - 10**7, now, bad, {"aiobs.replica": replica, "http.response.status_code": code, **more}))  # fmt: skip
            self._lock.notify()

    def spans(self, timeout_s: float) -> list[Observed]:
        with self._lock:
            self._lock.wait_for(lambda: self._new or self.broken, timeout_s)
            if self.broken:
                raise RecordError("wire", self.broken)
            found, self._new = self._new, []
            return found

    def keep(self, line: bytes) -> None:
        self.kept.append(line)


def spec_of(tmp_path: Path, text: str = SPEC) -> Spec:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return read_spec(path)


def plan_of(boundary: str = "aiobs.replica=b") -> Plan:
    return build_plan({"fault": "noop", "target": "pid:1", "boundary": boundary})


def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return found


@pytest.fixture
def wire(tmp_path: Path) -> Wire:
    return Wire(tmp_path)


def begun(wire: Wire, spec: Spec, **more: Any) -> tuple[Watch, list[str]]:
    watch = Watch(spec, wire, **{"ready_s": 10.0, **more})
    for _ in range(30):
        for name in "abc":
            wire.say(name)
    stopped: list[str] = []
    watch.begin(plan_of(), stopped.append)
    return watch, stopped


def test_errors_of_a_bystander_stop_it_and_those_inside_do_not(wire: Wire, tmp_path: Path) -> None:
    watch, stopped = begun(wire, spec_of(tmp_path))
    with watch:
        for _ in range(200):
            wire.say("b", bad=True)
            wire.say("a")
            wire.say("c")
        assert not until(lambda: stopped, 0.5)
        for place in range(100):
            wire.say("a", bad=place % 4 == 0)
        assert until(lambda: stopped)
    assert "availability of aiobs.replica=a fails far more than 1.00% of its requests" in stopped[0]
    assert watch.why == stopped[0]


def test_once_stopped_nothing_more_is_injected(wire: Wire, tmp_path: Path) -> None:
    watch, stopped = begun(wire, spec_of(tmp_path))
    with watch:
        for _ in range(20):
            wire.say("a", bad=True)
        assert until(lambda: stopped)
        with pytest.raises(ArmError, match="the watch has stopped this experiment: availability of aiobs.replica=a"):
            watch.begin(plan_of(), stopped.append)


def test_the_same_span_sent_twice_counts_once(wire: Wire, tmp_path: Path) -> None:
    watch, stopped = begun(wire, spec_of(tmp_path))
    with watch:
        for _ in range(100):
            wire.say("a", bad=True, key="one")
        for name in "abc":
            wire.say(name)
        assert not until(lambda: stopped, 0.5)


def test_what_failed_before_the_fault_is_not_its_doing(wire: Wire, tmp_path: Path) -> None:
    watch, stopped = begun(wire, spec_of(tmp_path))
    with watch:
        for _ in range(100):
            wire.say("a", bad=True, at_ns=time.time_ns() - 3600 * 10**9)
        assert not until(lambda: stopped, 0.5)


def test_a_bystander_that_falls_silent_stops_it(wire: Wire, tmp_path: Path) -> None:
    watch, stopped = begun(wire, spec_of(tmp_path), silence_s=0.5)
    with watch:
        deadline = time.monotonic() + 20
        while not stopped and time.monotonic() < deadline:
            wire.say("a")
            time.sleep(0.01)
    assert "aiobs.replica=c has not been heard of for" in stopped[0]


def test_telemetry_that_is_lost_stops_it(wire: Wire, tmp_path: Path) -> None:
    watch, stopped = begun(wire, spec_of(tmp_path))
    with watch:
        wire.broken = "no space"
        assert until(lambda: stopped)
    assert stopped[0].startswith("telemetry cannot be heard any more: wire: no space")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_breaks_stops_it(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, stopped = begun(wire, spec_of(tmp_path))
    with watch:
        monkeypatch.setattr(wire, "spans", lambda timeout_s: [None])
        assert until(lambda: stopped)
    assert "the watch itself broke" in stopped[0]


def test_nothing_is_injected_while_nobody_is_heard(wire: Wire, tmp_path: Path) -> None:
    with Watch(spec_of(tmp_path), wire, ready_s=0.3) as watch:
        for _ in range(100):
            wire.say("b")
        with pytest.raises(ArmError, match=r"the watch is blind: .* outside the permitted ones \(of aiobs.replica=b"):
            watch.begin(plan_of(), print)


def test_a_bystander_named_in_the_spec_must_be_heard(wire: Wire, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, SPEC.replace("- each: aiobs.replica\n", "- each: aiobs.replica\n  - {name: other, where: {aiobs.tenant: x}}\n", 1))  # fmt: skip
    with Watch(spec, wire, ready_s=0.3) as watch:
        for _ in range(100):
            wire.say("a")
        with pytest.raises(ArmError, match="the watch is blind: .* heard of other"):
            watch.begin(plan_of(), print)
        for _ in range(30):
            wire.say("a", **{"aiobs.tenant": "x"})
        watch.begin(plan_of(), print)


def test_a_bystander_that_is_ill_already_is_no_bystander(wire: Wire, tmp_path: Path) -> None:
    with Watch(spec_of(tmp_path), wire, ready_s=5) as watch:
        for place in range(100):
            wire.say("a", bad=place % 3 == 0)
        until(lambda: False, 0.3)
        with pytest.raises(ArmError, match=r"availability of aiobs.replica=a is ill before the fault: 34 of 100 were bad, 1.00% is"):  # fmt: skip
            watch.begin(plan_of(), print)


def test_it_must_be_said_what_may_be_hurt(wire: Wire, tmp_path: Path) -> None:
    spec = replace(spec_of(tmp_path), permitted=())
    with Watch(spec, wire) as watch, pytest.raises(PlanError, match="permitted"):
        watch.begin(plan_of(""), print)


def test_a_slow_answer_is_bad_and_one_that_never_came_too(wire: Wire, tmp_path: Path) -> None:
    document = yaml.safe_load(SPEC)
    document["slos"][0]["spec"] = {
        "indicator": {"spec": {"thresholdMetric": {"metricSource": {"type": "aiobs", "spec": {"sli": "ttft"}}}}},
        "objectives": [{"target": 0.99, "op": "lte", "value": 0.5}],
    }
    document["slos"][0]["metadata"]["name"] = "availability"
    watch = Watch(spec_of(tmp_path, yaml.safe_dump(document)), wire, ready_s=10)
    stopped: list[str] = []
    with watch:
        for _ in range(30):
            wire.say("a", **{"aiobs.request.time_to_first_token": "0.1"})
        watch.begin(plan_of(), stopped.append)
        for place in range(40):
            wire.say("a", **{"aiobs.request.time_to_first_token": "0.1" if place % 2 else "0.9"})
        assert until(lambda: stopped)


def _runs(rng: Any, watched: int, share: float, requests: int) -> int:
    """Request of the first of `watched` at which it is stopped, all others healthy; a large number: never."""
    slos = {"s": Slo("s", "ratio", None, 0.99)}  # type: ignore[arg-type]
    heard = {(str(place), "s"): Ordinary() for place in range(watched)}
    for it in heard.values():
        for one in rng.random(300) < 0.01:
            it.see(bool(one), 0.0)
    aborts = watchers(heard, slos, 0.0, 0.0)
    at = []
    for place, abort in enumerate(aborts.values()):
        seen = [*(rng.random(requests) < (share if place == 0 else 0.01))]
        at.append(next((k for k, one in enumerate(seen, 1) if abort.see((bool(one),), 0.0)), 10**9))
    return min(at) if share == 0.01 else at[0]


@pytest.mark.slow
@pytest.mark.parametrize(("watched", "soon"), [(1, 40), (2, 40), (4, 44), (8, 48)])
def test_it_stops_soon_and_hardly_ever_for_nothing(watched: int, soon: int) -> None:
    rng = np.random.default_rng(SEED)
    assert np.median([_runs(rng, watched, 0.1, 400) for _ in range(1000)]) <= soon
    healthy = [_runs(rng, watched, 0.01, 1000) < 10**9 for _ in range(1600 // watched)]
    assert np.mean(healthy) <= 0.005 + 2 * (0.005 / len(healthy)) ** 0.5
