"""A receiver of OTLP/HTTP on loopback that can misbehave, and real recorded processes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Answer = tuple[int, dict[str, str], bytes]
OK: Answer = (200, {"Content-Type": "application/x-protobuf"}, b"")


@dataclass
class Sink:
    """What a receiver got, and how it answers.

    Attributes:
        behave: gives the answer to the n-th request (from 0); None closes the connection without one.
        accepted: spans of requests that were answered with 200, by span id (hex), counted.
        names: their names.
        bodies: requests for traces that were answered with 200, counted.
    """

    port: int = 0
    behave: Callable[[int], Answer | None] = lambda n: OK
    requests: int = 0
    times: list[float] = field(default_factory=list)
    accepted: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    spans: dict[str, Any] = field(default_factory=dict)
    bodies: Counter[bytes] = field(default_factory=Counter)
    metrics: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    server: ThreadingHTTPServer | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, content: bytes) -> None:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        if path == "/v1/metrics":
            metrics = ExportMetricsServiceRequest.FromString(content)
            for resource in metrics.resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics.update(metric.name for metric in scope.metrics)
            return
        self.bodies[content] += 1
        for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.accepted[span.span_id.hex()] += 1
                    self.names[span.name] += 1
                    self.spans[span.span_id.hex()] = span

    def start(self) -> None:
        sink = self

        class Receiver(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                with sink.lock:
                    number = sink.requests
                    sink.requests += 1
                    sink.times.append(time.monotonic())
                answer = sink.behave(number)
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, answered = answer
                if status == 200:
                    with sink.lock:
                        sink.take(self.path, content)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answered)))
                self.end_headers()
                self.wfile.write(answered)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # agents are killed in the middle of requests here

        self.server = Server(("127.0.0.1", self.port), Receiver)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A receiver that is up."""
    receiver = Sink()
    receiver.start()
    yield receiver
    receiver.stop()


def until(condition: Callable[[], Any], timeout_s: float = 20.0, *, what: str = "") -> Any:
    """Wait for `condition`; returns what it returned."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.01)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    """Wait for a condition with a deadline."""
    return until


PROGRAM = """
import json, os, sys, time
from pathlib import Path
from aiobs import recorder
from aiobs.agent.bell import ring
from aiobs.recorder.location import runtime_dir
from aiobs.settings import load_settings
from aiobs.telemetry import Route
if "TEST_GROUP" in os.environ:
    Path(os.environ["TEST_GROUP"], "cgroup.procs").write_text(str(os.getpid()))
settings = load_settings()
folder = runtime_dir(settings)
route = Route(**json.loads(os.environ["TEST_ROUTE"]))
recorder.start(settings, {"service.name": "crash-test"}, route, folder / "records")
ring(folder)
finished = os.open(os.environ["TEST_FINISHED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def done(span):
    span.end()
    os.write(finished, span.context.span_id.hex().encode() + b"\\n")
"""


Recorded = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def recorded(tmp_path: Path, runtime_dir: Path) -> Iterator[Recorded]:
    """Starts a process that records by the real recorder and runs a piece of code; `done(span)` ends a span and
    notes its id in ``finished``."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        code: str, *, exporters: tuple[str, ...] = ("jsonl",), environment: dict[str, str] | None = None,
        folder: str = "run", variables: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        route = {
            "run_id": "crash", "exporters": exporters, "run_dir": folder and str(tmp_path / folder),
            "environment": environment or {},
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + code],
            env={
                **os.environ,
                "TEST_ROUTE": json.dumps(route),
                "TEST_FINISHED": str(tmp_path / "finished"),
                **(variables or {}),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
