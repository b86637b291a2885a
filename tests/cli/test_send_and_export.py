"""``aiobs send`` and ``aiobs export``: a run folder goes to a real receiver, or into another format."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socket import create_connection, socket
from threading import Thread
from typing import Any

import pytest

from .conftest import Run
from .made_runs import MadeRun


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    run = MadeRun(tmp_path / "aiobs-runs" / "made")
    for number in range(5):
        run.step(number, number * 20, {"forward": 2.0, "backward": 3.0})
    run.metric("aiobs.train.loss", "gauge", asDouble=0.25)
    return run


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def rotel(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A real receiver of OTLP: its ports for HTTP and gRPC."""
    package = pytest.importorskip("rotel")
    agent = Path(package.__file__).parent / "rotel-agent"
    http, grpc = free_port(), free_port()
    process = subprocess.Popen(
        [agent, "start", "--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--exporter", "blackhole"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"ROTEL_PID_FILE": str(tmp_path / "pid")},
    )  # fmt: skip
    deadline = time.monotonic() + 10
    for port in (http, grpc):
        while True:
            try:
                create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    yield http, grpc
    process.terminate()
    process.wait()


class Receiver(BaseHTTPRequestHandler):
    """Answers what the test has prepared, and keeps what it was sent."""

    answers: list[tuple[int, dict[str, str], bytes]]
    received: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        status, headers, content = self.answers.pop(0) if self.answers else (200, {}, b"{}")
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    kind = type("OneReceiver", (Receiver,), {"answers": [], "received": []})
    server = HTTPServer(("127.0.0.1", 0), kind)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("protocol", "which"), [("http/protobuf", 0), ("http/json", 0), ("grpc", 1)])
def test_a_real_receiver_takes_a_run(
    aiobs: Run, made: MadeRun, rotel: tuple[int, int], protocol: str, which: int
) -> None:
    done = aiobs(
        "send", "made", "--endpoint", f"http://127.0.0.1:{rotel[which]}", "--protocol", protocol, "--signals", "all"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"15 spans sent" in done.stdout
    assert b"1 data point sent" in done.stdout


def test_traces_only_unless_asked_and_with_headers(
    aiobs: Run, made: MadeRun, receiver: tuple[str, type[Receiver]]
) -> None:
    url, seen = receiver
    done = aiobs("send", "--endpoint", url, "--protocol", "http/json", "--header", "authorization=Bearer a=b,c")
    assert done.returncode == 0
    assert {path for path, _, _ in seen.received} == {"/v1/traces"}
    assert {headers["authorization"] for _, headers, _ in seen.received} == {"Bearer a=b,c"}
    sent = [
        span
        for _, _, body in seen.received
        for group in json.loads(body)["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]
    kept = [
        json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        for line in (made.folder / "traces.jsonl").read_text().splitlines()
    ]
    assert sorted(span["spanId"] for span in sent) == sorted(span["spanId"] for span in kept)
    assert {span["spanId"]: span["startTimeUnixNano"] for span in sent} == {
        span["spanId"]: span["startTimeUnixNano"] for span in kept
    }


def test_what_passes_is_tried_again(aiobs: Run, made: MadeRun, receiver: tuple[str, type[Receiver]]) -> None:
    url, seen = receiver
    seen.answers[:] = [(503, {"Retry-After": "0"}, b""), (429, {"Retry-After": "0"}, b"")]
    done = aiobs("send", "--endpoint", url)
    assert (done.returncode, done.stdout) == (0, b"aiobs: 15 spans sent\n")
    assert seen.received[0][2] == seen.received[1][2] == seen.received[2][2]


def test_partial_success_is_reported_and_not_repeated(
    aiobs: Run, made: MadeRun, receiver: tuple[str, type[Receiver]]
) -> None:
    url, seen = receiver
    seen.answers[:] = [(200, {}, b'{"partialSuccess":{"rejectedSpans":"1","errorMessage":"too old"}}')]
    done = aiobs("send", "--endpoint", url)
    assert done.returncode == 1
    assert b"14 spans sent, 1 refused" in done.stdout
    assert b"too old" in done.stderr
    assert len({body for _, _, body in seen.received}) == len(seen.received)


def test_a_refusal_ends_it_with_the_reason(aiobs: Run, made: MadeRun, receiver: tuple[str, type[Receiver]]) -> None:
    url, seen = receiver
    seen.answers[:] = [(400, {}, b'{"message":"not like this"}')]
    done = aiobs("send", "--endpoint", url)
    assert done.returncode == 1
    assert b"not like this" in done.stderr
    assert len(seen.received) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--endpoint", "nonsense"], b"nonsense"),
        (["--signals", "traces,gossip"], b"gossip"),
        (["--header", "no-value"], b"write NAME=VALUE"),
        (["nowhere"], b"there is no such run folder"),
    ],
)
def test_bad_options_of_send(aiobs: Run, made: MadeRun, words: list[str], said: bytes) -> None:
    done = aiobs("send", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_export_to_perfetto(aiobs: Run, made: MadeRun, tmp_path: Path) -> None:
    done = aiobs("export", "made", "out.json")
    assert done.returncode == 0, done.stderr.decode()
    assert b"15 spans in out.json" in done.stdout
    events = json.loads((tmp_path / "out.json").read_text())
    found = events["traceEvents"] if isinstance(events, dict) else events
    assert {"train step", "forward", "backward"} <= {event.get("name") for event in found}
    again = aiobs("export", "made", "out.json")
    assert (again.returncode, b"exists already" in again.stderr) == (2, True)
    assert aiobs("export", "made", "out.json", "--force").returncode == 0
