"""Verdicts from a real Prometheus that scrapes real programs; and the counting of scraped counters by itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiobs.chaos.command.verdict import main
from aiobs.chaos.containment.model import Fault
from aiobs.chaos.containment.sources.counting import growth, missing_ns, scrapes, step_ns
from aiobs.chaos.containment.sources.fault_line import line_of
from aiobs.chaos.containment.sources.prometheus_api import Series
from aiobs.errors import AiobsError, PlanError, RecordError

S = 10**9
PHASE_S = 5.0


@dataclass
class Lab:
    """Four replicas that were scraped while two of them suffered and one was not to be reached."""

    url: str
    began_ns: int

    def at(self, seconds: float) -> int:
        return self.began_ns + round(seconds * S)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as it:
        return int(it.getsockname()[1])


class Replica:
    def __init__(self, name: str) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge

        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "all", ["aiobs_replica", "code"], registry=self.registry)
        self.depth = Gauge("queue_depth", "waiting", ["aiobs_replica"], registry=self.registry)
        self.name, self.bad, self.port = name, False, free_port()
        self.listen()

    def listen(self) -> None:
        from prometheus_client import start_http_server

        self.server, self.thread = start_http_server(self.port, "127.0.0.1", self.registry)

    def fall_silent(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def turn(self, count: int) -> None:
        self.requests.labels(self.name, "503" if self.bad else "200").inc(count)
        self.depth.labels(self.name).set(50 if self.bad else 3)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    binary = os.environ.get("PROMETHEUS_BINARY") or shutil.which("prometheus")
    if not binary:
        pytest.skip("no prometheus binary (Debian package prometheus); PROMETHEUS_BINARY may name one")
    pytest.importorskip("prometheus_client", reason="needs prometheus-client")
    folder = tmp_path_factory.mktemp("prometheus")
    replicas = {name: Replica(name) for name in "abcd"}
    targets = [{"targets": [f"127.0.0.1:{it.port}" for it in replicas.values()]}]
    config = {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}, "scrape_configs": [{"job_name": "llm", "static_configs": targets}]}  # fmt: skip
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    process = subprocess.Popen(
        [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    ending = threading.Event()

    def load() -> None:
        while not ending.wait(0.02):
            for it in replicas.values():
                it.turn(6)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        url = f"http://127.0.0.1:{port}"
        _scraped(url, 4)
        began = time.time_ns()
        time.sleep(PHASE_S)
        replicas["b"].bad = replicas["c"].bad = True
        replicas["d"].fall_silent()
        time.sleep(PHASE_S)
        replicas["b"].bad = replicas["c"].bad = False
        replicas["d"].listen()
        time.sleep(PHASE_S + 0.5)
        yield Lab(url, began)
    finally:
        ending.set()
        thread.join()
        process.terminate()
        process.wait(10)
        for it in replicas.values():
            it.fall_silent()


def _scraped(url: str, targets: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/api/v1/query?query=requests_total", timeout=5) as answer:
                if len(json.load(answer)["data"]["result"]) >= targets:
                    return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.05)
    raise AssertionError("prometheus scraped nothing")


def metric(query: str) -> dict[str, Any]:
    return {"metricSource": {"type": "Prometheus", "spec": {"query": query}}}


RATIO = {"ratioMetric": {"counter": True, "bad": metric('requests_total{code=~"5.."}'), "total": metric("requests_total")}}  # fmt: skip
GOOD = {"ratioMetric": {"counter": True, "good": metric('requests_total{code="200"}'), "total": metric("requests_total")}}  # fmt: skip


def spec_of(tmp_path: Path, lab: Lab | None, replicas: str, indicator: dict[str, Any] = RATIO, **more: Any) -> Path:
    objective = {"target": 0.99, "op": "lte", "value": 10} if "thresholdMetric" in indicator else {"target": 0.99}
    document = {
        "boundaries": [{"name": f"replica-{it}", "where": {"aiobs.replica": it}} for it in replicas],
        "permitted": ["replica-b"], "rest": False, "margins": {"ok": 0.03},
        "slos": [{
            "apiVersion": "openslo/v1", "kind": "SLO", "metadata": {"name": "ok"},
            "spec": {"service": "llm", "indicator": {"spec": indicator}, "objectives": [objective]},
        }],
        **more,
    }  # fmt: skip
    if lab is not None:
        pieces = {"baseline": (0.3, 4.7), "fault": (5.4, 9.8), "recovery": (10.0, 15.0)}
        document["windows"] = {name: [lab.at(a), lab.at(b)] for name, (a, b) in pieces.items()} | {"hold": "1s"}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def judged(lab: Lab, spec: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    code = main([f"prometheus:{lab.url}", "--spec", str(spec), "--json", *more])
    return code, json.loads(capsys.readouterr().out)[0]


@pytest.mark.parametrize("indicator", [RATIO, GOOD], ids=["bad", "good"])
def test_counters_show_that_it_stayed_inside(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], indicator: dict[str, Any]) -> None:  # fmt: skip
    code, verdict = judged(lab, spec_of(tmp_path, lab, "ab", indicator), capsys)
    assert code == 0, verdict["sentence"]
    (outside,) = [it for it in verdict["cells"] if it["side"] == "outside"]
    assert outside["n_fault"] == pytest.approx(4.4 * 300, rel=0.5)
    (inside,) = [it for it in verdict["cells"] if it["side"] == "inside"]
    assert inside["fault"] > 0.95


def test_counters_show_where_it_leaked(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, verdict = judged(lab, spec_of(tmp_path, lab, "abc"), capsys)
    assert (code, verdict["strata"]) == (10, ["replica-c"]), verdict["sentence"]


def test_a_bystander_that_was_not_scraped_is_no_pass(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    code, verdict = judged(lab, spec_of(tmp_path, lab, "abd"), capsys)
    assert (code, verdict["reason"]) == (12, "no_data"), verdict["sentence"]
    assert "replica-d" in verdict["sentence"]


def test_a_series_is_judged_sample_by_sample(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = {"thresholdMetric": metric("queue_depth")}
    code, verdict = judged(lab, spec_of(tmp_path, lab, "abc", series), capsys)
    assert (code, verdict["strata"]) == (10, ["replica-c"]), verdict["sentence"]
    computed = {"thresholdMetric": metric("max by (aiobs_replica) (queue_depth)")}
    _, verdict = judged(lab, spec_of(tmp_path, lab, "ab", computed), capsys)
    assert {it["stratum"] for it in verdict["cells"]} == {"replica-a", "replica-b"}


def test_faults_come_from_a_run_folder_or_a_journal(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    fault = Fault("f1", "process.kill", lab.at(5), lab.at(5), lab.at(10), "replica-b", valid=True, aborted="its time is over")  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "traces.jsonl").write_bytes(line_of(fault))
    spec = spec_of(tmp_path, None, "ab", windows={"baseline": "4s", "recovery": "4s", "hold": "1s"})
    code, verdict = judged(lab, spec, capsys, "--faults", str(folder))
    assert (code, verdict["fault"]["id"]) == (0, "f1"), verdict["sentence"]
    told = {"injection": "f2", "fault": "process.kill", "injected_ns": lab.at(5), "effective_ns": lab.at(5), "undone_ns": lab.at(10), "boundary": "replica-b",
            "target": "pid:1", "because": "its time is over", "residue": []}  # fmt: skip
    (tmp_path / "journal.json").write_text(json.dumps({"chaoslib-version": "1.44.0", "aiobs": {"injections": [told]}}))
    code, verdict = judged(lab, spec, capsys, "--faults", str(tmp_path / "journal.json"))
    assert (code, verdict["fault"]["id"]) == (0, "f2"), verdict["sentence"]


@pytest.mark.parametrize(("indicator", "more", "says"), [
    ({"ratioMetric": {"counter": True, "bad": metric("rate(requests_total[1m])"), "total": metric("requests_total")}}, {}, "name the series only, without functions"),
    ({"ratioMetric": {"counter": True, "bad": metric("requests_totle"), "total": metric("requests_total")}}, {}, "no sample of 'requests_totle'"),
    ({"ratioMetric": {"counter": True, "bad": metric("sum(("), "total": metric("requests_total")}}, {}, "Prometheus says: .*parse error"),
    ({"ratioMetric": {"counter": False, "bad": metric("a"), "total": metric("b")}}, {}, "counter: true"),
    ({"ratioMetric": {"counter": True, "bad": metric("a"), "total": {"metricSource": {"type": "aiobs", "spec": {}}}}}, {}, "type='aiobs': use Prometheus"),
    (RATIO, {"boundaries": [{"each": "aiobs.tenant"}], "permitted": ["aiobs.tenant=b"]}, "no telemetry carries it; there are .*aiobs_replica"),
])  # fmt: skip
def test_what_cannot_be_asked_is_refused(lab: Lab, tmp_path: Path, indicator: dict[str, Any], more: dict[str, Any], says: str) -> None:  # fmt: skip
    with pytest.raises(AiobsError, match=says):
        main([f"prometheus:{lab.url}", "--spec", str(spec_of(tmp_path, lab, "ab", indicator, **more))])


def test_without_faults_or_windows_nothing_is_judged(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="Prometheus knows no faults: name them with --faults"):
        main(["prometheus:http://127.0.0.1:1", "--spec", str(spec_of(tmp_path, None, "ab"))])
    with pytest.raises(RecordError, match="Prometheus cannot be asked"):
        main(["prometheus:http://127.0.0.1:1", "--spec", str(spec_of(tmp_path, Lab("", 10**18), "ab"))])
    with pytest.raises(PlanError, match="prometheus:http://HOST:PORT"):
        main(["prometheus:nowhere", "--spec", str(spec_of(tmp_path, Lab("", 10**18), "ab"))])


def test_spans_and_queries_are_not_mixed_up(tmp_path: Path, scene: Any) -> None:
    from .conftest import SPEC

    scene.replica("a")
    scene.replica("b")
    scene.fault()
    folder, _, spans = scene.write(SPEC)
    with pytest.raises(PlanError, match="they ask Prometheus, and this is a run folder"):
        main([folder, "--spec", str(spec_of(tmp_path, None, "ab"))])
    with pytest.raises(PlanError, match="they are about spans, which Prometheus has none of"):
        main(["prometheus:http://127.0.0.1:1", "--spec", spans])


def series(*values: float | None, first: int = 0) -> Series:
    known = [(place * S, it) for place, it in enumerate(values, first) if it is not None]
    return Series({"job": "x"}, tuple(at for at, _ in known), tuple(value for _, value in known))  # type: ignore[misc]


def test_a_counter_that_begins_anew_counts_from_nothing() -> None:
    it = series(10, 14, 3, 5)
    assert growth(it, it.times, S) == {(0, S): 4, (S, 2 * S): 3, (2 * S, 3 * S): 2}


def test_a_counter_that_turns_up_later_than_its_target_grew_from_nothing() -> None:
    errors, requests = series(2, 5, first=2), series(1, 2, 3, 4)
    times = scrapes([errors, requests])["x", ""]
    assert growth(errors, times, S) == {(S, 2 * S): 2, (2 * S, 3 * S): 3}


def test_what_was_not_scraped_is_not_known() -> None:
    it = series(0, 1, 2, None, None, None, 30, 31)
    assert growth(it, it.times, S) == {(0, S): 1, (S, 2 * S): 1, (6 * S, 7 * S): 1}
    assert step_ns({("x", ""): it.times}) == S
    assert missing_ns(it.times, S, S, 7 * S) == 4 * S
    assert missing_ns(it.times, S, 0, 2 * S) == 0
