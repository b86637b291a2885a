"""OTLP over gRPC against a real gRPC server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from aiobs.errors import ExportError, NotEnabledError
from aiobs.exporters import otlp
from aiobs.telemetry import Batch, Resource, Route, Shape

grpc = pytest.importorskip("grpc")

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
# google.rpc.Status with the detail RetryInfo{retry_delay: 2.5 s}
RETRY_INFO = b"\x1a\x30\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04" + b"\x0a\x02\x08\x02"
RETRY_INFO_HALF = (
    b"\x1a\x36\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x0a\x0a\x08\x08\x02\x10\x80\xca\xb5\xee\x01"
)


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self) -> None:
        self.requests: list[tuple[bytes, dict[str, str]]] = []
        self.answer = b""
        self.failure: tuple[Any, str, bytes] | None = None

    def service(self, details: Any) -> Any:
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self.export)

    def export(self, content: bytes, context: Any) -> bytes:
        self.requests.append((content, dict(context.invocation_metadata())))
        if self.failure is not None:
            code, message, details = self.failure
            if details:
                context.set_trailing_metadata((("grpc-status-details-bin", details),))
            context.abort(code, message)
        return self.answer


@pytest.fixture
def service() -> Iterator[Any]:
    made = Service()
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(made,))
    made.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made
    server.stop(None).wait(5)


def exporter(url: str, **variables: str) -> otlp.OtlpExporter:
    environment = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    return otlp.create(Route("r", environment=environment))


def send(made: otlp.OtlpExporter) -> Any:
    row: Any = (Shape("forward"), b"t" * 16, b"s" * 8, b"", 1, 2, (), None)
    (body,) = made.encode(Batch([(Resource({}), [row])]))
    try:
        return made.send(body)
    finally:
        made.close()


def test_a_body_arrives_with_its_headers(service: Any) -> None:
    assert send(exporter(f"http://127.0.0.1:{service.port}", HEADERS="x-token=1", COMPRESSION="gzip")).rejected == 0
    ((content, metadata),) = service.requests
    assert ExportTraceServiceRequest.FromString(content).resource_spans[0].scope_spans[0].spans[0].name == "forward"
    assert metadata["x-token"] == "1"


def test_an_endpoint_without_scheme_is_plain_where_it_says_so(service: Any) -> None:
    assert send(exporter(f"127.0.0.1:{service.port}", INSECURE="true")).rejected == 0
    with pytest.raises(ExportError) as caught:
        send(exporter(f"127.0.0.1:{service.port}", TIMEOUT="2"))
    assert not caught.value.permanent


def test_partial_success_is_seen(service: Any) -> None:
    success = ExportTracePartialSuccess(rejected_spans=1, error_message="too old")
    service.answer = ExportTraceServiceResponse(partial_success=success).SerializeToString()
    receipt = send(exporter(f"http://127.0.0.1:{service.port}"))
    assert (receipt.rejected, receipt.message) == (1, "too old")


@pytest.mark.parametrize(
    ("code", "details", "permanent", "wait_s"),
    [
        ("CANCELLED", b"", False, None),
        ("DEADLINE_EXCEEDED", b"", False, None),
        ("ABORTED", b"", False, None),
        ("OUT_OF_RANGE", b"", False, None),
        ("UNAVAILABLE", RETRY_INFO, False, 2.0),
        ("DATA_LOSS", b"", False, None),
        ("RESOURCE_EXHAUSTED", b"", True, None),
        ("RESOURCE_EXHAUSTED", RETRY_INFO_HALF, False, 2.5),
        ("RESOURCE_EXHAUSTED", b"\xff", True, None),
        ("INVALID_ARGUMENT", b"", True, None),
        ("UNAUTHENTICATED", b"", True, None),
        ("INTERNAL", b"", True, None),
    ],
)
def test_which_codes_may_be_tried_again(service: Any, code: str, details: bytes, permanent: bool, wait_s: Any) -> None:
    service.failure = (grpc.StatusCode[code], "because", details)
    with pytest.raises(ExportError, match=f"answered {code}: because") as caught:
        send(exporter(f"http://127.0.0.1:{service.port}"))
    assert (caught.value.permanent, caught.value.retry_after_s) == (permanent, wait_s)


def test_nobody_there_is_tried_again_later(service: Any) -> None:
    with pytest.raises(ExportError, match="UNAVAILABLE") as caught:
        send(exporter("http://127.0.0.1:1", TIMEOUT="5"))
    assert not caught.value.permanent


def test_without_grpcio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(NotEnabledError, match=r"pip install 'aiobs-sdk\[grpc\]'"):
        exporter("http://127.0.0.1:1")
