"""Endpoints that are dead, slow, refusing or confused: nothing is lost, nothing is sent twice, nobody waits."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from aiobs.agent.delivery import Delivery
from aiobs.agent.spool import Allowance, Lane
from aiobs.ports import Body, RemoteExporter
from aiobs.telemetry import Batch, Resource, Route, Shape

Until = Callable[..., Any]
SHAPE = Shape("request")
RESOURCE = Resource({"service.name": "delivery"})


def exporter(endpoint: str, timeout_s: float = 5) -> RemoteExporter:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": str(timeout_s)}
    created = import_module("aiobs.exporters.otlp").create(Route("run", environment=environment))
    assert isinstance(created, RemoteExporter)
    return created


def put(lane: Lane, made: RemoteExporter, numbers: range) -> None:
    """One body for each number, with one span whose id is the number."""
    for number in numbers:
        row = (SHAPE, bytes(15) + b"\1", number.to_bytes(8, "big"), b"", 1, 2, (), None)
        for body in made.encode(Batch(spans=[(RESOURCE, [row])])):
            lane.put(body)
    lane.commit()


def ids(numbers: range) -> set[str]:
    return {number.to_bytes(8, "big").hex() for number in numbers}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of 20 ms instead of half a second."""
    monkeypatch.setattr("aiobs.agent.delivery.FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("aiobs.agent.delivery.LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def lane(tmp_path: Path) -> Lane:
    return Lane(tmp_path / "lane", Allowance(1 << 20), 0)


@pytest.fixture
def sending(lane: Lane) -> Iterator[Callable[[RemoteExporter], Delivery]]:
    started: list[Delivery] = []

    def start(made: RemoteExporter) -> Delivery:
        started.append(Delivery("otlp", made, lane))
        return started[0]

    yield start
    for delivery in started:
        delivery.stop(5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.usefixtures("quick")
def test_a_dead_endpoint_gets_everything_once_it_is_there(
    sink: Any, lane: Lane, sending: Any, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    sink.stop()
    made = exporter(sink.endpoint)
    delivery = sending(made)
    put(lane, made, range(1, 6))
    until(lambda: "cannot be reached" in delivery.last_error)
    time.sleep(0.2)
    assert len(lane) == 5
    assert len([record for record in caplog.records if record.name == "aiobs"]) <= 1
    sink.start()
    until(lambda: len(lane) == 0)
    assert set(sink.accepted) == ids(range(1, 6))
    assert set(sink.accepted.values()) == {1}
    assert (delivery.exported, delivery.last_error) == ({"traces": 5}, "")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_endpoint_is_asked_again(sink: Any, lane: Lane, sending: Any, until: Until, status: int) -> None:
    sink.behave = lambda n: (status, {}, b"busy") if n < 3 else (200, {}, b"")
    made = exporter(sink.endpoint)
    delivery = sending(made)
    put(lane, made, range(1, 4))
    until(lambda: len(lane) == 0)
    assert sink.requests == 6
    assert sink.accepted == dict.fromkeys(ids(range(1, 4)), 1)
    assert not delivery.dropped


@pytest.mark.usefixtures("quick")
def test_retry_after_is_honoured(sink: Any, lane: Lane, sending: Any, until: Until) -> None:
    sink.behave = lambda n: (503, {"Retry-After": "1"}, b"") if n == 0 else (200, {}, b"")
    made = exporter(sink.endpoint)
    sending(made)
    put(lane, made, range(1, 2))
    until(lambda: len(lane) == 0)
    assert sink.times[1] - sink.times[0] >= 1.0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [400, 401, 404, 413])
def test_what_is_refused_for_good_is_counted_and_does_not_block_the_rest(
    sink: Any, lane: Lane, sending: Any, until: Until, status: int
) -> None:
    sink.behave = lambda n: (status, {}, b"no") if n == 0 else (200, {}, b"")
    made = exporter(sink.endpoint)
    delivery = sending(made)
    put(lane, made, range(1, 4))
    until(lambda: len(lane) == 0)
    assert set(sink.accepted) == ids(range(2, 4))
    assert delivery.dropped == {"refused": 1}


@pytest.mark.usefixtures("quick")
def test_partial_success_is_counted_and_never_sent_again(sink: Any, lane: Lane, sending: Any, until: Until) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 1
    answer.partial_success.error_message = "too old"
    headers = {"Content-Type": "application/x-protobuf"}
    sink.behave = lambda n: (200, headers, answer.SerializeToString() if n == 0 else b"")
    made = exporter(sink.endpoint)
    delivery = sending(made)
    put(lane, made, range(1, 4))
    until(lambda: len(lane) == 0)
    assert sink.requests == 3
    assert (delivery.exported["traces"], delivery.dropped) == (2, {"partly_refused": 1})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("garbage", [b"\xff\x00 what \xfe" * 10, b"<html>login</html>"])
def test_garbage_in_a_success_is_a_success(sink: Any, lane: Lane, sending: Any, until: Until, garbage: bytes) -> None:
    sink.behave = lambda n: (200, {"Content-Type": "text/html"}, garbage)
    made = exporter(sink.endpoint)
    sending(made)
    put(lane, made, range(1, 3))
    until(lambda: len(lane) == 0)
    assert sink.requests == 2


@pytest.mark.usefixtures("quick")
def test_connections_cut_without_an_answer_are_tried_again(sink: Any, lane: Lane, sending: Any, until: Until) -> None:
    sink.behave = lambda n: None if n < 4 else (200, {}, b"")
    made = exporter(sink.endpoint)
    sending(made)
    put(lane, made, range(1, 3))
    until(lambda: len(lane) == 0)
    assert sink.accepted == dict.fromkeys(ids(range(1, 3)), 1)


@pytest.mark.usefixtures("quick")
def test_an_endpoint_that_never_answers_blocks_nobody(lane: Lane, sending: Any, until: Until) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        made = exporter(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        delivery = sending(made)
        before = time.monotonic()
        put(lane, made, range(1, 200))
        assert time.monotonic() - before < 1
        until(lambda: delivery.last_error)
        assert len(lane) == 199


def test_pauses_grow_and_differ(sink: Any, lane: Lane, sending: Any, until: Until) -> None:
    sink.behave = lambda n: (503, {}, b"")
    made = exporter(sink.endpoint)
    sending(made)
    put(lane, made, range(1, 2))
    until(lambda: sink.requests >= 3)
    first, second = (later - earlier for earlier, later in zip(sink.times, sink.times[1:], strict=False))
    assert 0.2 <= first < 0.7
    assert 0.45 <= second < 1.3


def test_a_fault_of_the_exporter_drops_one_body_and_goes_on(
    sink: Any, lane: Lane, sending: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIOBS_RAISE")
    monkeypatch.setattr("aiobs.agent.delivery.FIRST_PAUSE_S", 0.01)
    made = exporter(sink.endpoint)
    send = made.send

    def faulty(body: Body) -> Any:
        if failing in body.content:
            raise ZeroDivisionError("planted")
        return send(body)

    failing = (2).to_bytes(8, "big")
    monkeypatch.setattr(made, "send", faulty)
    put(lane, made, range(1, 4))
    delivery = sending(made)
    until(lambda: len(lane) == 0)
    assert set(sink.accepted) == ids(range(1, 2)) | ids(range(3, 4))
    assert delivery.dropped == {"exporter_fault": 1}
