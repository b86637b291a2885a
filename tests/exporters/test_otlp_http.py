"""OTLP over HTTP against a receiver that takes, refuses, lies, stalls and disappears."""

from __future__ import annotations

import gzip
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from aiobs.errors import ExportError, SettingError
from aiobs.exporters import otlp
from aiobs.ports import RemoteExporter
from aiobs.telemetry import Batch, LogRow, Metric, Point, Resource, Route, Shape

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}


def batch() -> Batch:
    resource = Resource({"service.name": "trainer"})
    row: Any = (Shape("forward"), b"t" * 16, b"s" * 8, b"", 1, 2, (), None)
    metric = Metric("m", "1", "", "gauge", [Point({}, 1, 2, 3)])
    return Batch([(resource, [row])], [(resource, [LogRow(1, "hello")])], [(resource, [metric])])


def exporter(url: str, **variables: str) -> otlp.OtlpExporter:
    environment = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    OPENED.append(otlp.create(Route("r", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": url, **environment})))
    return OPENED[-1]


OPENED: list[otlp.OtlpExporter] = []


@pytest.fixture(autouse=True)
def close_exporters() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def send(made: otlp.OtlpExporter) -> Any:
    (body,) = made.encode(batch())
    return made.send(body)


def test_a_body_is_posted_as_the_protocol_wants(receiver: Any) -> None:
    made = exporter(receiver.url, HEADERS="x-token=a%20b,Authorization=Basic%20eA==")
    assert isinstance(made, RemoteExporter)
    assert send(made).rejected == 0
    (request,) = receiver.requests
    assert request.path == "/v1/traces"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["x-token"] == "a b"
    assert request.headers["authorization"] == "Basic eA=="
    sent = ExportTraceServiceRequest.FromString(request.content)
    assert sent.resource_spans[0].scope_spans[0].spans[0].name == "forward"


def test_gzip_and_json(receiver: Any) -> None:
    send(exporter(receiver.url, COMPRESSION="gzip", PROTOCOL="http/json"))
    (request,) = receiver.requests
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["content-type"] == "application/json"
    assert gzip.decompress(request.content).startswith(b'{"resourceSpans":')


def test_one_connection_serves_many_requests(receiver: Any) -> None:
    made = exporter(receiver.url)
    for _ in range(3):
        send(made)
    assert len({request.connection for request in receiver.requests}) == 1


def test_a_connection_that_was_closed_while_idle_is_opened_again(receiver: Any) -> None:
    made = exporter(receiver.url)

    def hang_up(handler: Any) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        handler.close_connection = True
        return True

    receiver.act = hang_up
    for _ in range(3):
        send(made)
        time.sleep(0.02)
    assert len({request.connection for request in receiver.requests}) == 3


def partial(rejected: int, message: str) -> bytes:
    success = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    return ExportTraceServiceResponse(partial_success=success).SerializeToString()


@pytest.mark.parametrize(
    ("answer", "rejected", "message"),
    [
        ((200, PROTOBUF, partial(3, "too old")), 3, "too old"),
        ((200, PROTOBUF, partial(0, "a warning\nin two lines")), 0, "a warning in two lines"),
        ((200, {}, partial(2, "")), 2, ""),
        ((200, JSON, b'{"partialSuccess":{"rejectedSpans":"4","errorMessage":"no"}}'), 4, "no"),
        ((200, JSON, b"{}"), 0, ""),
        ((202, {}, b""), 0, ""),
        ((200, PROTOBUF, b"<html>hello"), 0, "the answer cannot be read: <html>hello"),
        ((200, JSON, b"[1]"), 0, "the answer cannot be read: [1]"),
        ((200, JSON, b"\xff\xfe"), 0, "the answer cannot be read: \ufffd\ufffd"),
    ],
)
def test_what_a_success_says(receiver: Any, answer: Any, rejected: int, message: str) -> None:
    receiver.answers.append(answer)
    receipt = send(exporter(receiver.url))
    assert (receipt.rejected, receipt.message) == (rejected, message)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_statuses_to_try_again_after(receiver: Any, status: int) -> None:
    receiver.answers.append((status, {"Retry-After": "7"}, b"busy"))
    with pytest.raises(ExportError, match=f"answered {status} .*busy") as caught:
        send(exporter(receiver.url))
    assert not caught.value.permanent
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 500, 501])
def test_statuses_that_are_final(receiver: Any, status: int) -> None:
    receiver.answers.append((status, {}, b"no"))
    with pytest.raises(ExportError, match=str(status)) as caught:
        send(exporter(receiver.url))
    assert caught.value.permanent


def test_retry_after_may_be_a_date_or_nonsense(receiver: Any) -> None:
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=60), usegmt=True)
    for value, low, high in ((soon, 55, 61), ("99999999", 3600, 3600), ("-1", 0, 0), ("inf", 3600, 3600)):
        receiver.answers.append((503, {"Retry-After": value}, b""))
        with pytest.raises(ExportError) as caught:
            send(exporter(receiver.url))
        assert caught.value.retry_after_s is not None
        assert low <= caught.value.retry_after_s <= high
    for value in ("soon", "nan", "Wed, 99 Foo"):
        receiver.answers.append((503, {"Retry-After": value}, b""))
        with pytest.raises(ExportError) as caught:
            send(exporter(receiver.url))
        assert caught.value.retry_after_s is None


def test_the_reason_is_read_from_a_status_message_and_bounded(receiver: Any) -> None:
    receiver.answers.append((400, PROTOBUF, b"\x08\x03\x12\x0bbad span id"))
    with pytest.raises(ExportError, match="400 Bad Request: bad span id$"):
        send(exporter(receiver.url))
    receiver.answers.append((400, JSON, b'{"code":3,"message":"bad span id"}'))
    with pytest.raises(ExportError, match="400 Bad Request: bad span id$"):
        send(exporter(receiver.url))
    receiver.answers.append((400, {}, b"\x1b[31m" + b"x" * 1_000_000))
    with pytest.raises(ExportError) as caught:
        send(exporter(receiver.url))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_receiver_that_is_not_there_is_tried_again_later() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ExportError, match=f"127.0.0.1:{port}/v1/traces cannot be reached.*refused") as caught:
        send(exporter(f"http://127.0.0.1:{port}"))
    assert not caught.value.permanent


def test_silence_ends_with_the_timeout(receiver: Any) -> None:
    receiver.act = lambda handler: time.sleep(1) is None
    before = time.monotonic()
    with pytest.raises(ExportError, match="timed out") as caught:
        send(exporter(receiver.url, TIMEOUT="0.2"))
    assert time.monotonic() - before < 0.9
    assert not caught.value.permanent


def test_an_answer_that_trickles_ends_with_the_timeout(receiver: Any) -> None:
    def trickle(handler: Any) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(40):
            handler.wfile.write(b"x")
            time.sleep(0.05)
        return True

    receiver.act = trickle
    before = time.monotonic()
    with pytest.raises(ExportError, match="timed out"):
        send(exporter(receiver.url, TIMEOUT="0.3"))
    assert time.monotonic() - before < 1.5


def test_an_answer_that_is_not_http_is_tried_again_and_hints_at_grpc() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(b"\x00\x00\x12\x04\x00")

        threading.Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        with pytest.raises(ExportError, match="cannot be reached") as caught:
            send(exporter(f"http://127.0.0.1:{port}", TIMEOUT="2"))
        assert not caught.value.permanent


def test_secrets_stay_out_of_messages(receiver: Any) -> None:
    url = receiver.url.replace("//", "//user:hunter2@")
    receiver.answers.append((403, {}, b"no"))
    with pytest.raises(ExportError) as caught:
        send(exporter(url, HEADERS="x-token=hunter2"))
    assert "hunter2" not in str(caught.value)
    assert receiver.requests[0].headers["authorization"].startswith("Basic ")
    assert "hunter2" not in repr(receiver.requests[0].path)


def test_metrics_and_logs_go_only_where_they_are_wanted(receiver: Any) -> None:
    def signals(**environment: str) -> list[str]:
        made = otlp.create(Route("r", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **environment}))
        bodies = list(made.encode(batch()))
        for body in bodies:
            made.send(body)
        made.close()
        return [body.signal for body in bodies]

    assert signals() == ["traces"]
    assert signals(OTEL_METRICS_EXPORTER="otlp") == ["traces", "metrics"]
    assert signals(OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="console, otlp") == ["traces", "logs"]
    assert signals(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=receiver.url + "/m?x=1") == ["traces", "metrics"]
    assert [request.path for request in receiver.requests] == [
        "/v1/traces",
        "/v1/traces",
        "/v1/metrics",
        "/v1/traces",
        "/v1/logs",
        "/v1/traces",
        "/m?x=1",
    ]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return str(key), str(cert)


def test_https_needs_a_certificate_it_trusts(start_receiver: Any, certificate: tuple[str, str]) -> None:
    key, cert = certificate

    def wrap(server: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        context.load_verify_locations(cert)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)

    receiver = start_receiver(wrap)
    files = {"CLIENT_KEY": key, "CLIENT_CERTIFICATE": cert}
    assert send(exporter(receiver.url, CERTIFICATE=cert, **files)).rejected == 0
    assert len(receiver.requests) == 1
    with pytest.raises(ExportError, match="certificate verify failed"):
        send(exporter(receiver.url, **files))
    with pytest.raises(ExportError, match="cannot be reached"):
        send(exporter(receiver.url, CERTIFICATE=cert, TIMEOUT="2"))


def test_a_certificate_that_is_none_is_a_setting_error(tmp_path: Path) -> None:
    path = tmp_path / "c.pem"
    path.write_text("nonsense")
    with pytest.raises(SettingError, match="give PEM files"):
        exporter("https://127.0.0.1:1", CERTIFICATE=str(path))
