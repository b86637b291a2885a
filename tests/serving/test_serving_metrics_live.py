"""The metrics of a server against what its callers measured: the reference engine, the real agent, a scrape."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from .llm_example import encode
from .processes import free_port, running

SERVER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import aiobs
aiobs.init(service_name="llm-server")
import torch, uvicorn
from llm_example import MODEL, Engine, Steady, create_app
torch.set_num_threads(1)
app = create_app(MODEL, lambda dispatch: Engine(Steady(0.01), dispatch, max_batch=4, name="steady"))
uvicorn.run(app, port=int(sys.argv[3]), log_level="critical")
"""
HERE = Path(__file__).parent
REQUESTS, CALLERS, TOKENS = 12, 6, 60
CLOSE = 0.001
"""Seconds a mean may be off; or one in a hundred."""
WAY = 0.02
"""Seconds a first chunk may take from the server to the caller on a busy machine."""


@dataclass
class Caller:
    """Asks over one connection; times are seconds.

    Attributes:
        took, first: of each answer, until its last byte and until its first chunk.
    """

    port: int
    took: list[float]
    first: list[float]

    async def ask(self, *models: str, leave: bool = False) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await self._ask(reader, writer, models, leave)
        finally:
            writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, models: tuple[str, ...], leave: bool
    ) -> None:
        for model in models:
            body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": TOKENS, "stream": True}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            begun = time.perf_counter()
            writer.write(head.encode() + body)
            answered = await reader.readuntil(b"\r\n\r\n")
            if b"chunked" not in answered:
                await reader.readexactly(int(answered.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
                continue
            first = 0.0
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
                first = first or time.perf_counter() - begun
                if leave:
                    break
            else:
                await reader.readexactly(2)
                self.took.append(time.perf_counter() - begun)
                self.first.append(first)


class Scrape:
    """What a Prometheus server that asks for OpenMetrics gets."""

    def __init__(self, port: int) -> None:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=accept)) as got:
            text = got.read().decode()
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def values(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Samples of that name by some of their labels, added up."""
        found: dict[tuple[str, ...], float] = {}
        for sample in self.samples:
            if sample.name == name:
                key = tuple(sample.labels.get(label, "") for label in labels)
                found[key] = found.get(key, 0) + sample.value
        return found

    def value(self, name: str) -> float:
        return self.values(name).get((), 0.0)


def until(port: int, condition: Callable[[Scrape], bool]) -> Scrape:
    deadline = time.monotonic() + 20
    while True:
        try:
            scrape = Scrape(port)
            if condition(scrape):
                return scrape
        except OSError:
            pass
        assert time.monotonic() < deadline, "the metrics never said so"
        time.sleep(0.05)


def close_to(mean_s: float) -> Any:
    return pytest.approx(mean_s, rel=0.01, abs=CLOSE)


def lines(folder: Path, signal_name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.glob(f"{signal_name}*.jsonl") for line in path.read_text().splitlines()]


def series(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """The last point of each series of a metric in a run folder, by its attributes."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines(folder, "metrics"):
        for resource in line["resourceMetrics"]:
            for metric in resource["scopeMetrics"][0]["metrics"]:
                if metric["name"] == name:
                    for point in metric["histogram"]["dataPoints"]:
                        found[json.dumps(point["attributes"])] = point
    return found


@pytest.mark.slow
def test_what_is_measured_is_what_the_callers_saw(tmp_path: Path) -> None:
    port, metrics = free_port(), free_port()
    folder = tmp_path / "run"
    environment = {
        **os.environ, "AIOBS_EXPORTERS": "prometheus,jsonl", "AIOBS_PROMETHEUS_ADDRESS": f"127.0.0.1:{metrics}",
        "OTEL_METRIC_EXPORT_INTERVAL": "100", "AIOBS_RUN_DIR": str(folder),
    }  # fmt: skip
    command = ["-c", SERVER, str(HERE), str(HERE.parents[1]), str(port)]
    with running(command, port, environment) as server:
        callers = Caller(port, [], [])

        async def load() -> None:
            await callers.ask("unheard of", "steady")  # the first one pays for imports and caches, on both sides
            # A refused request first: the connection is then there, and accepted.
            wanted = ["unheard of", *["steady"] * (REQUESTS // CALLERS)]
            await asyncio.gather(*(callers.ask(*wanted) for _ in range(CALLERS)))

        asyncio.run(load())
        asked = REQUESTS + 1
        count = "gen_ai_server_request_duration_seconds_count"
        refused = CALLERS + 1
        scrape = until(metrics, lambda it: it.value(count) >= asked + refused)
        assert scrape.values(count, "gen_ai_operation_name", "gen_ai_request_model", "error_type") == {
            ("text_completion", "steady", ""): asked,
            ("text_completion", "", "invalid_request_error"): refused,
        }
        by_status = scrape.values("http_server_request_duration_seconds_count", "http_response_status_code")
        assert by_status == {("200",): asked, ("404",): refused}
        took = scrape.values("gen_ai_server_request_duration_seconds_sum", "gen_ai_request_model")["steady",]
        assert took / asked == close_to(sum(callers.took) / asked)
        took = scrape.values("http_server_request_duration_seconds_sum", "http_response_status_code")["200",]
        assert took / asked == close_to(sum(callers.took) / asked)
        first = scrape.value("gen_ai_server_time_to_first_token_seconds_sum") / asked
        # Nearly all of the way lies before the first chunk: the caller's process and the server's share the machine.
        assert 0 <= sum(callers.first) / asked - first < WAY
        per_token = (sum(callers.took) - sum(callers.first)) / asked / (TOKENS - 1)
        assert scrape.value("gen_ai_server_time_per_output_token_seconds_sum") / asked == close_to(per_token)
        tokens = scrape.values("aiobs_server_tokens_total", "gen_ai_token_type")
        assert tokens == {("output",): asked * TOKENS, ("input",): asked * len(encode("Hello"))}
        # The first token is the prefill's.
        passes = {**tokens, ("output",): asked * (TOKENS - 1)}
        assert scrape.values("aiobs_engine_tokens_total", "gen_ai_token_type") == passes
        waited = scrape.value("aiobs_request_queue_duration_seconds_sum")
        assert 0 < waited < sum(callers.first)
        idle = until(metrics, lambda it: not any(it.values("aiobs_engine_requests", "aiobs_engine_state").values()))
        assert idle.values("aiobs_engine_requests", "aiobs_engine_state") == {("running",): 0, ("waiting",): 0}

        async def strange() -> None:
            await callers.ask(*["unheard of"] * 3)
            await asyncio.gather(*(callers.ask("steady", leave=True) for _ in range(2)))

        asyncio.run(strange())
        scrape = until(
            metrics, lambda it: it.value("http_server_request_duration_seconds_count") >= asked + refused + 5
        )
        assert scrape.values("http_server_request_duration_seconds_count", "http_response_status_code", "error_type") == {
            ("200", ""): asked + 2, ("404", ""): refused + 3
        }  # fmt: skip
        assert scrape.value("aiobs_server_disconnects_total") == 2
        exemplars = [sample.exemplar for sample in scrape.samples if sample.exemplar]
        assert len({sample.name for sample in scrape.samples if sample.exemplar}) >= 4

        async def killed() -> None:
            asking = [asyncio.ensure_future(callers.ask("steady")) for _ in range(3)]
            await asyncio.sleep(0.2)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.gather(*asking, return_exceptions=True)

        asyncio.run(killed())
        server.wait(10)

    def cut() -> list[dict[str, Any]]:
        return [point for key, point in series(folder, "http.server.request.duration").items() if "SIGKILL" in key]

    deadline = time.monotonic() + 20
    while not cut() and time.monotonic() < deadline:
        time.sleep(0.05)
    (point,) = cut()
    assert point["count"] == "3"
    spans = {
        (span["traceId"], span["spanId"])
        for line in lines(folder, "traces")
        for resource in line["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    }
    assert {(one.labels["trace_id"], one.labels["span_id"]) for one in exemplars} <= spans
