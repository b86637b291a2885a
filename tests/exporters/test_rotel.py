"""A real OTLP receiver (rotel, from PyPI) takes everything we send, over every protocol."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiobs.exporters import otlp
from aiobs.telemetry import (
    Batch,
    Exemplar,
    Extra,
    HistogramPoint,
    Link,
    LogRow,
    Metric,
    Point,
    Resource,
    Route,
    Shape,
    SpanEvent,
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def rotel() -> Iterator[dict[str, int]]:
    """Ports by protocol of a running rotel that counts and throws away."""
    found = importlib.util.find_spec("rotel")
    if found is None or found.origin is None:
        pytest.skip("rotel is not installed")
    binary = Path(found.origin).with_name("rotel-agent")
    ports = {"grpc": free_port(), "http/protobuf": free_port()}
    command = [
        str(binary), "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log", "metrics", "--debug-log", "logs",
        "--otlp-grpc-endpoint", f"127.0.0.1:{ports['grpc']}", "--otlp-http-endpoint", f"127.0.0.1:{ports['http/protobuf']}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    deadline = time.monotonic() + 10
    for port in ports.values():
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    process.kill()
                    pytest.fail(f"rotel does not listen on {port} (exit code {process.wait()})")
                time.sleep(0.02)
    yield {**ports, "http/json": ports["http/protobuf"]}
    process.terminate()
    process.wait(10)


def everything(*, json: bool) -> Batch:
    values: dict[str, Any] = {"a": [1, "x"], "m": {"k": 1.5}, "b": b"raw"}
    if not json:  # rotel's JSON reader does not know the empty value and "NaN", which the mapping has
        values |= {"n": None, "l": [None], "nan": float("nan")}
    resource = Resource({"service.name": "trainer", **values})
    extra = Extra(2, "boom", values, [SpanEvent("e", 5, values)], [Link(b"l" * 16, b"m" * 8, values)], "k=v", 0x300)
    shape = Shape("step", keys=("q", "d", "b_", "s", "j"), types="qdbsj")
    row: Any = (shape, b"t" * 16, b"s" * 8, b"p" * 8, 1, 2, (1, 2.0, True, "s", {"deep": [1]}), extra)
    plain: Any = (shape, b"t" * 16, b"r" * 8, b"", 1, 2, (1, 2.0, True, "s", []), None)
    points = [Point(values, 1, 2, 3), Point({}, 1, 2, 0.5)]
    histogram = HistogramPoint({}, 1, 2, 2, 1.5, 0.5, 1.0, (0.7,), [1, 1], [Exemplar(0.5, 2, b"t" * 16, b"s" * 8)])
    metrics = [Metric(kind, "s", "d", kind, points) for kind in ("sum", "updown", "gauge")]
    metrics.append(Metric("h", "s", "d", "histogram", [histogram]))
    logs = [LogRow(1, "text"), LogRow(1, values, "event.name", 17, values, b"t" * 16, b"s" * 8)]
    return Batch([(resource, [row, plain])], [(resource, logs)], [(resource, metrics)])


@pytest.mark.skipif(sys.platform != "linux", reason="rotel is a Linux binary")
@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_all_signals_are_taken(rotel: dict[str, int], protocol: str, compression: str) -> None:
    if protocol == "grpc":
        pytest.importorskip("grpc")
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{rotel[protocol]}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
    }
    exporter = otlp.create(Route("r", environment=environment))
    taken = {}
    for body in exporter.encode(everything(json=protocol == "http/json")):
        receipt = exporter.send(body)
        assert (receipt.rejected, receipt.message) == (0, "")
        taken[body.signal] = body.items
    exporter.close()
    assert taken == {"traces": 2, "metrics": 7, "logs": 2}
