"""Traces out of Jaeger's v3 query API.

There is no Jaeger here: a stand-in answers as its source does (``apiv3/http_gateway.go``: names of parameters, RFC 3339
times, ``result`` around OTLP JSON, 404 where nothing is found, and never more traces than were asked for).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from aiobs.chaos.command.verdict import main
from aiobs.chaos.containment.sources import jaeger
from aiobs.chaos.containment.sources.jaeger import download
from aiobs.errors import PlanError, RecordError

from .conftest import SPEC, T0

S = 10**9


class StandIn(ThreadingHTTPServer):
    """See the module's text. Each of `groups` is an OTLP JSON resource with spans; a trace is found by any of its spans."""

    daemon_threads = True

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.groups = groups
        self.asked = 0
        self.most = 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.asked += 1
        if parts.path == "/api/v3/services":
            self._send(200, {"services": sorted({_service(group) for group in self.server.groups})})
        elif parts.path != "/api/v3/traces" or not {"query.start_time_min", "query.start_time_max"} <= set(given):
            self._send(400, {"error": {"httpCode": 400, "message": "query.start_time_min and query.start_time_max are required"}})  # fmt: skip
        else:
            self._find(given)

    def _find(self, given: dict[str, str]) -> None:
        first, end = (_ns(given[f"query.start_time_{it}"]) for it in ("min", "max"))
        found: dict[str, None] = {}
        for group in self.server.groups:
            if _service(group) == given["query.service_name"]:
                for span in group["scopeSpans"][0]["spans"]:
                    if first <= int(span["startTimeUnixNano"]) <= end:
                        found[span["traceId"]] = None
        chosen = set(list(found)[: int(given["query.num_traces"])])
        self.server.most = max(self.server.most, len(chosen))
        if not chosen:
            self._send(404, {"error": {"httpCode": 404, "message": "No traces found"}})
            return
        groups = []
        for group in self.server.groups:
            spans = [span for span in group["scopeSpans"][0]["spans"] if span["traceId"] in chosen]
            groups += [{**group, "scopeSpans": [{"scope": {}, "spans": spans[place : place + 50]}]} for place in range(0, len(spans), 50)]  # fmt: skip
        self._send(200, {"result": {"resourceSpans": groups}})

    def _send(self, code: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _service(group: dict[str, Any]) -> str:
    return str(
        next(it["value"]["stringValue"] for it in group["resource"]["attributes"] if it["key"] == "service.name")
    )


def _ns(text: str) -> int:
    whole, _, rest = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * S + int(rest.ljust(9, "0"))


@pytest.fixture
def served(scene: Any) -> Iterator[StandIn]:
    scene.replica("a", end=99)
    scene.replica("b", lambda at: 35 <= at < 69, end=99)
    scene.fault()
    it = StandIn(scene.groups)
    yield it
    it.shutdown()
    it.server_close()


@pytest.fixture
def hand(tmp_path: Path) -> Path:
    text = f"windows: {{baseline: [{T0 + 5}, {T0 + 34}], fault: [{T0 + 36}, {T0 + 65}], recovery: [{T0 + 65}, {T0 + 95}], hold: 10s}}"
    path = tmp_path / "hand.yaml"
    path.write_text(SPEC.replace("windows: {baseline: 30s, recovery: 30s, hold: 10s, guard: 1s}", text))
    return path


def test_a_verdict_over_all_pages(served: StandIn, hand: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(jaeger, "DEPTH", 1000)
    assert main([f"jaeger:{served.url}", "--spec", str(hand), "--json"]) == 0
    (verdict,) = json.loads(capsys.readouterr().out)
    assert verdict["raw"]["spans"] == pytest.approx(2 * 50 * 90, abs=5)
    assert verdict["fault"]["id"] == "f1"


def test_not_one_span_is_lost_where_a_search_gives_few(served: StandIn, tmp_path: Path) -> None:
    begin, end = T0 * S, (T0 + 20) * S
    download(served.url, tmp_path, begin, end, depth=40)
    assert served.most == 40  # it was cut short, and asked again
    got = [
        span["spanId"]
        for line in (tmp_path / "traces.jsonl").read_text().splitlines()
        for group in json.loads(line)["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]
    there = {span["spanId"] for group in served.groups for span in group["scopeSpans"][0]["spans"] if begin <= int(span["startTimeUnixNano"]) <= end}  # fmt: skip
    assert len(got) == len(set(got)) and set(got) == there


def test_more_than_it_can_give_is_a_refusal(tmp_path: Path, scene: Any) -> None:
    scene.spans({"service.name": "llm"}, [scene.span(5) for _ in range(50)])
    it = StandIn(scene.groups)
    with pytest.raises(RecordError, match="gives 20 traces of llm at a time and has more within .*: the answer would not be whole"):  # fmt: skip
        download(it.url, tmp_path, T0 * S, (T0 + 10) * S, depth=20)
    it.shutdown()
    it.server_close()


def test_faults_of_a_folder_say_which_time(served: StandIn, tmp_path: Path, scene: Any, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    served.groups = served.groups[:2]  # the fault span went elsewhere
    scene.groups = scene.groups[2:]
    folder, _, spec = scene.write()
    assert main([f"jaeger:{served.url}", "--spec", spec, "--faults", folder, "--json"]) == 0
    (verdict,) = json.loads(capsys.readouterr().out)
    assert verdict["fault"]["id"] == "f1"


def test_what_is_no_jaeger_is_said(served: StandIn, hand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with pytest.raises(RecordError, match="Jaeger cannot be asked"):
        main(["jaeger:http://127.0.0.1:1", "--spec", str(hand)])
    with pytest.raises(PlanError, match="jaeger:http://HOST:PORT"):
        main(["jaeger:somewhere", "--spec", str(hand)])
    with pytest.raises(RecordError, match="Jaeger answers 400: .*are required"):
        jaeger._ask(served.url, "traces", {"query.service_name": "llm"})
    with pytest.raises(RecordError, match="Jaeger has no spans from 1970-01-01T00:00:00"):
        download(served.url, tmp_path, 0, S)
