"""Calls through real gRPC channels: spans, context, and nothing else changed."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import aiobs
from aiobs import patches
from aiobs.patches.clients.grpc import host_of
from aiobs.testing import Captured, CapturedSpan, capture

grpc = pytest.importorskip("grpc")

seen: list[dict[str, Any]] = []
stopped = threading.Event()


def echo(request: bytes, context: Any) -> bytes:
    seen.append(dict(context.invocation_metadata()))
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")
    return request


def stream(request: bytes, context: Any) -> Iterator[bytes]:
    try:
        for _ in range(int(request)):
            time.sleep(0.005)
            yield b"x"
    finally:
        stopped.set()


def total(requests: Iterator[bytes], context: Any) -> bytes:
    return str(len(list(requests))).encode()


@contextmanager
def server() -> Iterator[str]:
    kinds = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Total": grpc.stream_unary_rpc_method_handler(total),
    }
    seen.clear()
    stopped.clear()
    made = grpc.server(ThreadPoolExecutor(4), [grpc.method_handlers_generic_handler("bench.Echo", kinds)])
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        made.stop(1).wait()


def clients(captured: Captured) -> list[CapturedSpan]:
    return sorted((span for span in captured.spans if span.kind == 3), key=lambda span: span.start_ns)


def test_a_call_and_its_server_are_one_trace() -> None:
    with capture() as captured:
        with server() as address, grpc.insecure_channel(address) as channel:
            with aiobs.span("asking"):
                assert channel.unary_unary("/bench.Echo/Echo")(b"x") == b"x"
    [sent] = clients(captured)
    [served] = [span for span in captured.spans if span.kind == 2]
    assert sent.name == served.name == "bench.Echo/Echo"
    assert sent.parent_id == captured.span("asking").span_id
    assert served.parent_id == sent.span_id
    wanted = {
        "rpc.system": "grpc",
        "rpc.service": "bench.Echo",
        "rpc.grpc.status_code": 0,
        "server.address": "127.0.0.1",
    }
    assert {key: sent.attributes.get(key) for key in wanted} == wanted


def test_objects_are_what_they_were() -> None:
    def kinds(address: str) -> list[type]:
        with grpc.insecure_channel(address) as channel:
            answer = channel.unary_stream("/bench.Echo/Stream")(b"2")
            list(answer)
            future = channel.unary_unary("/bench.Echo/Echo").future(b"x")
            future.result()
            both = channel.unary_unary("/bench.Echo/Echo").with_call(b"x")
            assert answer.code() is future.code() is both[1].code() is grpc.StatusCode.OK
            return [type(channel), type(answer), type(future), type(both[1])]

    with capture(patches_off=("grpc_client", "grpc")), server() as address:
        usual = kinds(address)
    with capture() as captured, server() as address:
        assert kinds(address) == usual
    assert [span.attributes["rpc.grpc.status_code"] for span in clients(captured)] == [0, 0, 0]


def test_all_kinds_and_failures() -> None:
    with capture() as captured:
        with server() as address, grpc.insecure_channel(address) as channel:
            assert len(list(channel.unary_stream("/bench.Echo/Stream")(b"3"))) == 3
            assert channel.stream_unary("/bench.Echo/Total")(iter([b"a", b"b"])) == b"2"
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary("/bench.Echo/Echo")(b"fail")
            with pytest.raises(grpc.RpcError):
                list(channel.unary_stream("/bench.Echo/Stream")(b"1000", timeout=0.1))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    found = [
        (span.attributes["rpc.grpc.status_code"], span.status, span.attributes.get("error.type"))
        for span in clients(captured)
    ]
    assert found == [(0, 0, None), (0, 0, None), (5, 2, "NOT_FOUND"), (4, 2, "DEADLINE_EXCEEDED")]
    assert 0.1 <= clients(captured)[3].duration_s < 1


@pytest.mark.parametrize("how", ["cancel", "drop"])
def test_a_stream_left_half_way(how: str) -> None:
    with capture() as captured:
        with server() as address, grpc.insecure_channel(address) as channel:
            answer = channel.unary_stream("/bench.Echo/Stream")(b"1000")
            next(answer)
            if how == "cancel":
                answer.cancel()
            del answer
            gc.collect()
            assert stopped.wait(3)  # the server was told
    [sent] = clients(captured)
    assert sent.attributes["aiobs.request.abandoned"] is True
    assert sent.status == 0
    assert "aiobs.truncated" not in sent.attributes


def test_the_context_goes_where_it_may() -> None:
    own = f"00-{'ab' * 16}-{'cd' * 8}-01"
    with capture(propagate_to=("none",)), server() as address, grpc.insecure_channel(address) as channel:
        channel.unary_unary("/bench.Echo/Echo")(b"x")
        channel.unary_unary("/bench.Echo/Echo")(b"x", 1, [("traceparent", own), ("other", "kept")])
    assert "traceparent" not in seen[0]
    assert (seen[1]["traceparent"], seen[1]["other"]) == (own, "kept")
    with capture(), server() as address, grpc.insecure_channel(address) as channel:
        channel.unary_unary("/bench.Echo/Echo")(b"x", metadata=[("traceparent", own)])
        channel.unary_unary("/bench.Echo/Echo")(b"x", 1, [("other", "kept")])
    assert seen[0]["traceparent"] == own
    assert "traceparent" in seen[1] and seen[1]["other"] == "kept"


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("localhost:50051", "localhost"), ("dns:///api.example.com:443", "api.example.com"), ("ipv4:10.0.0.1:80", "10.0.0.1"),
        ("ipv6:[::1]:80", "::1"), ("[::1]:80", "::1"), ("unix:/tmp/x", "localhost"), ("dns://8.8.8.8/host:1", "host"),
    ],
)  # fmt: skip
def test_targets(target: str, host: str) -> None:
    assert host_of(target) == host


def test_the_delivery_of_spans_makes_none() -> None:
    with capture() as captured:
        with server() as address, grpc.insecure_channel(address) as channel:
            with pytest.raises(grpc.RpcError):
                channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(b"x")
    assert not clients(captured)


def test_aio_calls() -> None:
    async def use(address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            with aiobs.span("asking"):
                assert await channel.unary_unary("/bench.Echo/Echo")(b"x") == b"x"
            answer = channel.unary_stream("/bench.Echo/Stream")(b"3")
            assert type(answer).__name__ == "UnaryStreamCall"
            assert len([message async for message in answer]) == 3
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary("/bench.Echo/Echo")(b"fail")
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND
            answer = channel.unary_stream("/bench.Echo/Stream")(b"1000")
            await answer.read()
            answer.cancel()

    with capture() as captured:
        with server() as address:
            asyncio.run(use(address))
    sent = clients(captured)
    codes = [(span.attributes["rpc.grpc.status_code"], span.status) for span in sent]
    assert codes == [(0, 0), (0, 0), (5, 2), (1, 0)]
    assert sent[0].parent_id == captured.span("asking").span_id
    served = [span for span in captured.spans if span.kind == 2]
    assert {span.parent_id for span in served} == {span.span_id for span in sent}
    assert sent[0].attributes["server.address"] == "127.0.0.1"


def test_removed() -> None:
    before = grpc._channel._UnaryUnaryMultiCallable.__call__, grpc.aio.Channel.__init__
    with capture() as captured:
        with server() as address, grpc.insecure_channel(address) as channel:
            channel.unary_unary("/bench.Echo/Echo")(b"x")
            patches.remove("grpc_client")
            channel.unary_unary("/bench.Echo/Echo")(b"x")
    assert (grpc._channel._UnaryUnaryMultiCallable.__call__, grpc.aio.Channel.__init__) == before
    assert len(clients(captured)) == 1
