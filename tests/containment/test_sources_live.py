"""The OTLP receiver inside an experiment: with the real SDK, with other senders, and with bad ones."""

from __future__ import annotations

import gzip
import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiobs.chaos.containment.sources import receiver as receiver_module
from aiobs.chaos.containment.sources.following import Following
from aiobs.chaos.containment.sources.observed import Observed
from aiobs.chaos.containment.sources.receiver import Receiver
from aiobs.errors import PlanError, RecordError

pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2", reason="needs OTLP's messages")
JSON = {"Content-Type": "application/json"}


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver("127.0.0.1:0", tmp_path / "got") as made:
        yield made


def post(it: Receiver, body: bytes, headers: dict[str, str] = JSON, path: str = "/v1/traces", method: str = "POST") -> tuple[int, bytes, Any]:  # fmt: skip
    connection = http.client.HTTPConnection(it.endpoint.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def heard(it: Any, count: int) -> list[Observed]:
    found: list[Observed] = []
    until(lambda: found.extend(it.spans(0.1)) or len(found) >= count)
    return found


def span(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "traceId": f"{number:032x}", "spanId": f"{number:016x}", "name": "POST /v1", "kind": 2, "startTimeUnixNano": "1800000000000000000",
        "endTimeUnixNano": "1800000000500000000", "attributes": [{"key": "aiobs.replica", "value": {"stringValue": "a"}}], "status": {}, **more,
    }  # fmt: skip


def body(*spans: Any) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


def lines(folder: Path, signal: str = "traces") -> list[Any]:
    return [json.loads(line) for line in (folder / f"{signal}.jsonl").read_text().splitlines()]


SDK = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
provider = TracerProvider(resource=Resource({"service.name": "sdk", "aiobs.replica": "a"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
for n in range(300):
    with provider.get_tracer("t").start_as_current_span("POST /v1", kind=SpanKind.SERVER, attributes={"n": n, "ok": True, "share": 0.5}) as it:
        if n % 3 == 0:
            it.set_status(Status(StatusCode.ERROR))
provider.shutdown()
"""


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_what_the_real_sdk_sends_arrives_whole_and_is_a_run_folder(receiver: Receiver, compression: str) -> None:
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION": compression}  # fmt: skip
    subprocess.run([sys.executable, "-c", SDK], env=environment, check=True, timeout=60)
    found = heard(receiver, 300)
    assert len(found) == len({it.key for it in found}) == 300
    assert sum(it.error for it in found) == 100
    one = next(it for it in found if it.attributes["n"] == "7")
    assert (one.kind, one.attributes["ok"], one.attributes["share"], one.attributes["aiobs.replica"]) == ("server", "true", "0.5", "a")  # fmt: skip
    assert [span["kind"] for line in lines(receiver.folder) for span in line["resourceSpans"][0]["scopeSpans"][0]["spans"]] == [2] * 300  # fmt: skip

    from aiobs.chaos.containment.model import Boundary, Spec
    from aiobs.chaos.containment.run_folder import RunFolder

    source = RunFolder(receiver.folder, Spec((Boundary("a", {"aiobs.replica": ("a",)}),), ()))
    assert source.seen().spans == source.carriers()["a"] == 300
    source.close()


def test_grpc_has_a_door_of_its_own(receiver: Receiver) -> None:
    grpc = pytest.importorskip("grpc", reason="needs grpcio")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    from aiobs.chaos.containment.sources.grpc_receiver import GrpcReceiver

    request = ExportTraceServiceRequest()
    for number in (1, 0):
        request.resource_spans.add().scope_spans.add().spans.add(
            trace_id=number.to_bytes(16, "big"), span_id=number.to_bytes(8, "big"), name="x", kind=2,
            start_time_unix_nano=10**18, end_time_unix_nano=10**18 + 1,
        )  # fmt: skip
    with GrpcReceiver("127.0.0.1:0", receiver.recording) as door:
        with grpc.insecure_channel(door.endpoint.removeprefix("http://")) as channel:
            export = channel.unary_unary(
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                request_serializer=ExportTraceServiceRequest.SerializeToString,
                response_deserializer=ExportTraceServiceResponse.FromString,
            )
            answer = export(request, timeout=20)
    assert answer.partial_success.rejected_spans == 1
    assert "not all 0" in answer.partial_success.error_message
    assert [it.key for it in heard(receiver, 1)] == ["0" * 31 + "1" + "0" * 15 + "1"]


def test_a_forwarding_agent_passes_everything_on(receiver: Receiver, tmp_path: Path) -> None:
    installed = importlib.util.find_spec("rotel")
    if installed is None or installed.origin is None:
        pytest.skip("rotel is not installed")
    ports = [_free_port(), _free_port()]
    command = [
        str(Path(installed.origin).with_name("rotel-agent")), "start", "--exporter", "otlp",
        "--otlp-exporter-endpoint", receiver.endpoint, "--otlp-exporter-protocol", "http",
        "--otlp-http-endpoint", f"127.0.0.1:{ports[0]}", "--otlp-grpc-endpoint", f"127.0.0.1:{ports[1]}",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as agent:
        try:
            assert until(lambda: _listens(ports[0]))
            environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports[0]}"}
            subprocess.run([sys.executable, "-c", SDK], env=environment, check=True, timeout=60)
            assert len({it.key for it in heard(receiver, 300)}) == 300
        finally:
            agent.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as it:
        return int(it.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as it:
        return it.connect_ex(("127.0.0.1", port)) == 0


def test_json_and_gzip_and_chunks_are_understood(receiver: Receiver) -> None:
    assert post(receiver, body(span(1)))[:2] == (200, b"{}")
    assert post(receiver, gzip.compress(body(span(2))), {**JSON, "Content-Encoding": "gzip"})[0] == 200
    connection = http.client.HTTPConnection(receiver.endpoint.removeprefix("http://"), timeout=10)
    connection.request("POST", "/v1/traces", iter([body(span(3))[:50], body(span(3))[50:]]), JSON, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert len(heard(receiver, 3)) == 3


def test_metrics_and_logs_are_kept_too(receiver: Receiver) -> None:
    for signal, level in (("metrics", "resourceMetrics"), ("logs", "resourceLogs")):
        assert post(receiver, json.dumps({level: [{"resource": {}}]}).encode(), path=f"/v1/{signal}")[0] == 200
        assert lines(receiver.folder, signal) == [{level: [{"resource": {}}]}]


def test_spans_that_cannot_be_placed_are_rejected_and_counted(receiver: Receiver) -> None:
    wrong = [span(0), span(2, spanId="xyz"), span(3, startTimeUnixNano=0), span(4, endTimeUnixNano=1.5)]
    code, said, _ = post(receiver, body(span(1), *wrong))
    told = json.loads(said)["partialSuccess"]
    assert (code, told["rejectedSpans"]) == (200, "4") and "not all 0" in told["errorMessage"]
    assert len(heard(receiver, 1)) == 1
    assert len(lines(receiver.folder)[0]["resourceSpans"][0]["scopeSpans"][0]["spans"]) == 1


@pytest.mark.parametrize(("content", "headers", "path", "method", "code", "says"), [
    (b"{", JSON, "/v1/traces", "POST", 400, "no JSON"),
    (b"[1]", JSON, "/v1/traces", "POST", 400, "no JSON object"),
    (b'{"resourceSpans": [[1]]}', JSON, "/v1/traces", "POST", 400, "shape of OTLP"),
    (b'{"resourceSpans": 7}', JSON, "/v1/traces", "POST", 400, "shape of OTLP"),
    (b"\xff\xff\xff", {"Content-Type": "application/x-protobuf"}, "/v1/traces", "POST", 400, "protobuf"),
    (b"abc", {**JSON, "Content-Encoding": "gzip"}, "/v1/traces", "POST", 400, "no gzip"),
    (gzip.compress(b"{}")[:-6], {**JSON, "Content-Encoding": "gzip"}, "/v1/traces", "POST", 400, "cut off"),
    (b"{}", {"Content-Type": "text/plain"}, "/v1/traces", "POST", 415, "content type"),
    (b"{}", {**JSON, "Content-Encoding": "br"}, "/v1/traces", "POST", 415, "encoding"),
    (b"{}", JSON, "/v1/spans", "POST", 404, "no such path"),
    (b"", JSON, "/v1/traces", "GET", 405, "POST"),
])  # fmt: skip
def test_bad_requests_are_answered_as_the_protocol_says(receiver: Receiver, content: bytes, headers: dict[str, str], path: str, method: str, code: int, says: str) -> None:  # fmt: skip
    got, said, answered = post(receiver, content, headers, path, method)
    assert got == code and says in said.decode(errors="replace")
    assert answered["Content-Type"] == ("application/x-protobuf" if "protobuf" in str(headers) else "application/json")
    assert post(receiver, body(span()))[0] == 200  # and it goes on


def test_a_body_that_is_too_large_is_refused_before_it_takes_memory(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(receiver_module, "BODY_BYTES", 1000)
    assert post(receiver, gzip.compress(b" " * 2000), {**JSON, "Content-Encoding": "gzip"})[0] == 413
    assert post(receiver, b"", {**JSON, "Content-Length": "2000"})[0] == 413


def test_a_sender_that_is_too_fast_is_told_to_wait(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiobs.chaos.containment.sources.recording.WAITING", 3)
    assert post(receiver, body(*[span(n) for n in range(1, 4)]))[0] == 200
    code, _, headers = post(receiver, body(span(4)))
    assert (code, headers["Retry-After"]) == (429, "1")
    assert len(heard(receiver, 3)) == 3
    assert post(receiver, body(span(4)))[0] == 200
    assert sum(len(it["resourceSpans"][0]["scopeSpans"][0]["spans"]) for it in lines(receiver.folder)) == 4


def test_a_disk_that_is_full_is_no_silence(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aiobs.chaos.containment.sources.recording.os.write", full)
    assert post(receiver, body(span()))[0] == 503
    with pytest.raises(RecordError, match="No space left"):
        receiver.spans(0.1)


@pytest.mark.parametrize("listen", ["4318", "127.0.0.1:", "127.0.0.1:70000", "203.0.113.7:4318", "no.such.host.invalid:1"])  # fmt: skip
def test_an_address_that_cannot_be_is_refused(listen: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="listen="):
        Receiver(listen, tmp_path / "x")


def test_a_run_is_not_mixed_with_another(receiver: Receiver) -> None:
    post(receiver, body(span()))
    with pytest.raises(PlanError, match="holds a run already"):
        Receiver("127.0.0.1:0", receiver.folder)


def test_a_folder_being_written_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_bytes(body(span(1)) + b"\n")
    live = Following(tmp_path)
    with path.open("ab", buffering=0) as file:
        file.write(body(span(2))[:40])
        assert live.spans(0.2) == []
        file.write(body(span(2))[40:] + b"\nnonsense\n" + body(span(3)) + b"\n")
        assert [int(it.key[:32], 16) for it in heard(live, 2)] == [2, 3]
    (tmp_path / "traces-2.jsonl").write_bytes(body(span(4)) + b"\n")
    assert [int(it.key[:32], 16) for it in heard(live, 1)] == [4]
    path.write_bytes(body(span(5)) + b"\n")
    assert [int(it.key[:32], 16) for it in heard(live, 1)] == [5]
    assert live.broken == 1
    with pytest.raises(RecordError, match="no such run folder"):
        Following(tmp_path / "none")
