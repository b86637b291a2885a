"""Metrics for Prometheus: as text, over HTTP, and in a real Prometheus server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from aiobs.errors import SettingError
from aiobs.exporters import prometheus
from aiobs.exporters.openmetrics import family_of
from aiobs.telemetry import Batch, Exemplar, HistogramPoint, Metric, Point, Resource, Route

TRACE, SPAN = bytes(range(16)), bytes(range(8))


@pytest.fixture
def serve() -> Iterator[Callable[..., prometheus.PrometheusExporter]]:
    made: list[prometheus.PrometheusExporter] = []

    def start(address: str = "127.0.0.1:0") -> prometheus.PrometheusExporter:
        made.append(prometheus.create(Route("r", environment={"AIOBS_PROMETHEUS_ADDRESS": address})))
        return made[-1]

    yield start
    for exporter in made:
        exporter.close()


def get(port: int, accept: str = "", path: str = "/metrics") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def batch(rank: int = 0, steps: int = 5, loss: float = 0.25) -> Batch:
    resource = Resource({"service.name": "trainer", "aiobs.rank": rank, "host.name": 'h"1\\\n'})
    exemplar = Exemplar(0.2, 1_700_000_000_500_000_000, TRACE, SPAN)
    histogram = HistogramPoint(
        {"aiobs.phase": "forward"}, 1, 2, 6, 7.5, 0.1, 3.0, (0.1, 0.5, 2.5), [1, 2, 0, 3], [exemplar]
    )
    return Batch(
        metrics=[
            (
                resource,
                [
                    Metric("aiobs.train.steps", "{step}", "Steps\ndone", "sum", [Point({}, 1, 2, steps)]),
                    Metric("aiobs.train.loss", "1", "", "gauge", [Point({"a.b": 'x"\\\n', "a_b": True}, 1, 2, loss)]),
                    Metric("aiobs.train.phase.duration", "s", "", "histogram", [histogram]),
                    Metric("queue", "By", "", "updown", [Point({}, 1, 2, -3)]),
                ],
            )
        ]
    )


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("aiobs.train.step.duration", "s", "histogram", "aiobs_train_step_duration_seconds"),
        ("duration.seconds", "s", "gauge", "duration_seconds"),
        ("aiobs.train.steps", "{step}", "sum", "aiobs_train_steps"),
        ("requests_total", "1", "sum", "requests"),
        ("io", "By", "sum", "io_bytes"),
        ("io", "By/s", "gauge", "io_bytes_per_second"),
        ("rate", "{x}/s", "gauge", "rate_per_second"),
        ("load", "1", "gauge", "load_ratio"),
        ("load", "1", "updown", "load"),
        ("1st-thing  ü", "", "gauge", "_1st_thing"),
        ("energy", "J", "sum", "energy_joules"),
        ("odd", "foo", "gauge", "odd_foo"),
    ],
)
def test_names(name: str, unit: str, kind: str, expected: str) -> None:
    assert family_of(Metric(name, unit, "", kind, []))[0] == expected


def test_openmetrics_with_exemplars(serve: Any) -> None:
    exporter = serve()
    exporter.write(batch())
    kind, text = get(exporter.port, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(text)}
    steps = families["aiobs_train_steps"]
    assert (steps.type, steps.documentation) == ("counter", "Steps\ndone")
    assert [(s.name, s.value) for s in steps.samples] == [("aiobs_train_steps_total", 5)]
    assert families["aiobs_train_loss_ratio"].samples[0].labels["a_b"] == 'x"\\\n;true'
    phase = families["aiobs_train_phase_duration_seconds"]
    assert (phase.type, phase.unit) == ("histogram", "seconds")
    buckets = {s.labels["le"]: (s.value, s.exemplar) for s in phase.samples if s.name.endswith("_bucket")}
    assert {le: value for le, (value, _) in buckets.items()} == {"0.1": 1, "0.5": 3, "2.5": 3, "+Inf": 6}
    exemplar = buckets["0.5"][1]
    assert exemplar is not None
    assert exemplar.labels == {"trace_id": TRACE.hex(), "span_id": SPAN.hex()}
    assert (exemplar.value, float(exemplar.timestamp)) == (0.2, 1_700_000_000.5)
    assert families["queue_bytes"].samples[0].value == -3
    assert families["target"].samples[0].labels["host_name"] == 'h"1\\\n'


def test_plain_text(serve: Any) -> None:
    exporter = serve()
    exporter.write(batch())
    kind, text = get(exporter.port)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    assert "trace_id" not in text
    families = {family.name: family for family in parse_plain(text)}
    assert families["aiobs_train_steps"].type == "counter"
    assert families["aiobs_train_phase_duration_seconds"].type == "histogram"
    assert families["target_info"].type == "gauge"


def test_the_newest_points_are_served_and_ranks_stay_apart(serve: Any) -> None:
    exporter = serve()
    exporter.write(batch(steps=5))
    exporter.write(batch(rank=1, steps=9))
    exporter.write(batch(steps=6))
    families = {family.name: family for family in parse_plain(get(exporter.port)[1])}
    found = {s.labels["aiobs_rank"]: s.value for s in families["aiobs_train_steps"].samples}
    assert found == {"0": 6, "1": 9}


def test_two_runs_share_an_address(serve: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first, second = serve(f"127.0.0.1:{port}"), serve(f"127.0.0.1:{port}")
    first.write(batch(rank=0))
    second.write(batch(rank=1))
    assert get(port)[1].count("aiobs_train_steps_total{") == 2
    first.close()
    assert get(port)[1].count("aiobs_train_steps_total{") == 1
    second.close()
    with pytest.raises(OSError):
        get(port)


def test_one_name_with_two_kinds_keeps_the_first(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    exporter = serve()
    point = [Point({}, 1, 2, 1)]
    exporter.write(
        Batch(
            metrics=[
                (Resource({}), [Metric("clash.a", "", "", "gauge", point), Metric("clash_a", "", "", "sum", point)])
            ]
        )
    )
    assert get(exporter.port)[1].count("clash_a") == 2
    assert "clash_a is both gauge and counter" in caplog.text


def test_other_paths_are_not_found(serve: Any) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        get(serve().port, path="/other")
    caught.value.close()


def test_a_taken_port_is_named(serve: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            SettingError, match=rf"AIOBS_PROMETHEUS_ADDRESS='{address}'.*already in use.*choose another"
        ):
            serve(address)


@pytest.mark.parametrize("address", ["9464", "host:", ":9464", "h:99999", "h:x", "256.1.1.1:0"])
def test_an_address_that_is_none_is_named(serve: Any, address: str) -> None:
    with pytest.raises(SettingError, match="AIOBS_PROMETHEUS_ADDRESS"):
        serve(address)


@pytest.fixture
def prometheus_binary() -> str:
    found = os.environ.get("PROMETHEUS_BINARY") or shutil.which("prometheus")
    if found is None or not Path(found).exists():
        pytest.skip("no prometheus binary (Debian package prometheus); PROMETHEUS_BINARY may name one")
    return found


@pytest.mark.slow
def test_a_real_prometheus_scrapes_and_answers(serve: Any, prometheus_binary: str, tmp_path: Path) -> None:
    exporter = serve()
    exporter.write(batch(steps=42))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "global": {"scrape_interval": "200ms"},
        "scrape_configs": [{"job_name": "aiobs", "static_configs": [{"targets": [f"127.0.0.1:{exporter.port}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    command = [prometheus_binary, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=warn"]

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=5) as answer:
            return json.load(answer)["data"]

    def until(path: str, found: Callable[[Any], Any]) -> Any:
        deadline = time.monotonic() + 20
        while True:
            try:
                answer = ask(path)
                if found(answer):
                    return answer
            except OSError:
                answer = None
            assert process.poll() is None, "prometheus ended"
            assert time.monotonic() < deadline, answer
            time.sleep(0.05)

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            answer = until("query?query=aiobs_train_steps_total", lambda data: data["result"])
            (series,) = answer["result"]
            assert series["value"][1] == "42"
            assert (series["metric"]["service_name"], series["metric"]["aiobs_rank"]) == ("trainer", "0")
            quantile = quote("histogram_quantile(0.4, aiobs_train_phase_duration_seconds_bucket)")
            (series,) = ask(f"query?query={quantile}")["result"]
            assert 0.1 < float(series["value"][1]) < 0.5
            (series,) = ask("query?query=target_info")["result"]
            assert series["metric"]["host_name"] == 'h"1\\\n'
            (target,) = ask("targets")["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            window = f"&start={1_700_000_000}&end={int(time.time()) + 60}"
            exemplars = ask(f"query_exemplars?query=aiobs_train_phase_duration_seconds_bucket{window}")
            assert exemplars[0]["exemplars"][0]["labels"]["trace_id"] == TRACE.hex()
        finally:
            process.terminate()
