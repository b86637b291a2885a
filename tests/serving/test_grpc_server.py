"""Real gRPC servers and channels on loopback."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import aiobs
from aiobs import patches
from aiobs.testing import Captured, CapturedSpan, capture

grpc = pytest.importorskip("grpc")

SERVICE = "bench.Echo"


def plain(data: bytes) -> bytes:
    return data


def handlers(methods: dict[str, Any]) -> Any:
    """A service whose methods are (kind, function)."""
    made = {name: getattr(grpc, kind + "_rpc_method_handler")(function) for name, (kind, function) in methods.items()}
    return grpc.method_handlers_generic_handler(SERVICE, made)


@contextmanager
def serving(methods: dict[str, Any], **options: Any) -> Iterator[Any]:
    """A ``grpc.server`` with these methods; yields a channel to it."""
    server = grpc.server(ThreadPoolExecutor(4), [handlers(methods)], **options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        server.stop(1).wait()


def servers(captured: Captured) -> list[CapturedSpan]:
    return sorted((span for span in captured.spans if span.kind == 2), key=lambda span: span.start_ns)


def call(channel: Any, kind: str, method: str) -> Any:
    return getattr(channel, kind)(f"/{SERVICE}/{method}")


def stream(request: bytes, context: Any) -> Iterator[bytes]:
    for number in range(int(request)):
        time.sleep(0.01)
        yield str(number).encode()


def test_a_unary_call() -> None:
    def echo(request: bytes, context: Any) -> bytes:
        with aiobs.span("inside"):
            return request

    with capture() as captured:
        with serving({"Echo": ("unary_unary", echo)}) as channel:
            assert call(channel, "unary_unary", "Echo")(b"x") == b"x"
    [served] = servers(captured)
    assert served.name == "bench.Echo/Echo"
    wanted = {
        "rpc.system": "grpc", "rpc.service": "bench.Echo", "rpc.method": "Echo", "rpc.grpc.status_code": 0,
        "client.address": "127.0.0.1", "aiobs.rpc.messages.received": 1, "aiobs.rpc.messages.sent": 1,
    }  # fmt: skip
    assert {key: served.attributes.get(key) for key in wanted} == wanted
    assert served.status == 0
    assert captured.span("inside").parent_id == served.span_id


def test_all_kinds_of_streams() -> None:
    def total(requests: Iterator[bytes], context: Any) -> bytes:
        return str(sum(int(request) for request in requests)).encode()

    def doubled(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        return (request + request for request in requests)

    def inside(request: bytes, context: Any) -> Iterator[bytes]:
        for message in stream(request, context):
            with aiobs.span("inside"):
                yield message

    methods = {
        "Stream": ("unary_stream", inside),
        "Total": ("stream_unary", total),
        "Doubled": ("stream_stream", doubled),
    }
    with capture() as captured:
        with serving(methods) as channel:
            assert list(call(channel, "unary_stream", "Stream")(b"5")) == [b"0", b"1", b"2", b"3", b"4"]
            assert call(channel, "stream_unary", "Total")(iter([b"1", b"2", b"3"])) == b"6"
            assert list(call(channel, "stream_stream", "Doubled")(iter([b"a", b"b"]))) == [b"aa", b"bb"]
    streamed, summed, both = servers(captured)
    assert streamed.attributes["aiobs.stream.chunks"] == streamed.attributes["aiobs.rpc.messages.sent"] == 5
    assert streamed.attributes["aiobs.stream.time_to_first_chunk"] >= 0.01
    assert 0.009 < streamed.attributes["aiobs.stream.chunk.p50"] < 0.05
    assert len(captured.children(streamed)) == 5
    assert (summed.attributes["aiobs.rpc.messages.received"], summed.attributes["aiobs.rpc.messages.sent"]) == (3, 1)
    assert (both.attributes["aiobs.rpc.messages.received"], both.attributes["aiobs.rpc.messages.sent"]) == (2, 2)
    assert {span.attributes["rpc.grpc.status_code"] for span in (streamed, summed, both)} == {0}


def broken(request: bytes, context: Any) -> bytes:
    raise LookupError("no such thing")


def broken_stream(request: bytes, context: Any) -> Iterator[bytes]:
    yield b"1"
    raise LookupError("no such thing")


def aborted(request: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad number")
    return b""


def unavailable(request: bytes, context: Any) -> bytes:
    context.set_code(grpc.StatusCode.UNAVAILABLE)
    context.set_details("later")
    return b""


@pytest.mark.parametrize(
    ("kind", "method", "code", "status", "error", "details"),
    [
        ("unary_unary", broken, 2, 2, "LookupError", "Exception calling application: no such thing"),
        ("unary_stream", broken_stream, 2, 2, "LookupError", "Exception iterating responses: no such thing"),
        ("unary_unary", aborted, 3, 0, None, "bad number"),
        ("unary_unary", unavailable, 14, 2, "UNAVAILABLE", "later"),
    ],
)
def test_how_calls_fail(kind: str, method: Any, code: int, status: int, error: str | None, details: str) -> None:
    with capture() as captured:
        with serving({"Fail": (kind, method)}) as channel:
            ask = call(channel, kind, "Fail")
            with pytest.raises(grpc.RpcError) as raised:
                list(ask(b"1"))
    assert raised.value.details() == details
    assert raised.value.code().value[0] == code
    [served] = servers(captured)
    assert served.attributes["rpc.grpc.status_code"] == code
    assert (served.status, served.attributes.get("error.type")) == (status, error)
    assert [event.name for event in served.events] == (["exception"] if error == "LookupError" else [])


def test_a_method_that_is_not_there() -> None:
    with capture() as captured:
        with serving({"Echo": ("unary_unary", lambda request, context: request)}) as channel:
            with pytest.raises(grpc.RpcError):
                call(channel, "unary_unary", "Nowhere1")(b"x")
    [served] = servers(captured)
    assert (served.name, served.attributes["rpc.grpc.status_code"], served.status) == ("_OTHER", 12, 2)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_the_caller_leaves(how: str) -> None:
    done = threading.Event()

    def endless(request: bytes, context: Any) -> Iterator[bytes]:
        try:
            while True:
                time.sleep(0.01)
                yield b"x"
        finally:
            done.set()

    with capture() as captured:
        with serving({"Endless": ("unary_stream", endless)}) as channel:
            answer = call(channel, "unary_stream", "Endless")(b"", timeout=0.15 if how == "deadline" else 5)
            for _ in range(3):
                next(answer)
            if how == "cancel":
                answer.cancel()
            with pytest.raises(grpc.RpcError):
                list(answer)
            assert done.wait(5)
            time.sleep(0.05)
    [served] = servers(captured)
    assert served.attributes["aiobs.request.disconnected"] is True
    assert "aiobs.request.disconnected" in [event.name for event in served.events]
    assert "aiobs.truncated" not in served.attributes
    if how == "cancel":
        assert (served.attributes["rpc.grpc.status_code"], served.status) == (1, 0)
    else:
        assert (served.attributes["rpc.grpc.status_code"], served.status) == (4, 2)
        assert served.attributes["error.type"] == "DEADLINE_EXCEEDED"


def test_interceptors_of_the_program_keep_their_order() -> None:
    order: list[str] = []

    class Note(grpc.ServerInterceptor):  # type: ignore[misc,name-defined]
        def __init__(self, name: str) -> None:
            self.name = name

        def intercept_service(self, continuation: Any, details: Any) -> Any:
            order.append(self.name)
            return continuation(details)

    with capture() as captured:
        with serving(
            {"Echo": ("unary_unary", lambda request, context: request)}, interceptors=[Note("a"), Note("b")]
        ) as channel:
            call(channel, "unary_unary", "Echo")(b"x")
    assert order == ["a", "b"]
    assert len(servers(captured)) == 1


def test_metadata_carries_the_callers_context() -> None:
    sent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    methods = {"Echo": ("unary_unary", lambda request, context: request)}
    for policy, parent, links in (("auto", "cd" * 8, 0), ("link", "", 1), ("ignore", "", 0)):
        with capture(serving_callers=policy) as captured:
            with serving(methods) as channel:
                call(channel, "unary_unary", "Echo")(b"x", metadata=[("traceparent", sent)])
        [served] = servers(captured)
        assert served.parent_id == parent
        assert len([link for link in served.links if link.attributes.get("aiobs.link") == "caller"]) == links


def test_a_running_server_records_nothing_once_removed() -> None:
    before = grpc.server, grpc.aio.server
    with capture() as captured:
        with serving({"Echo": ("unary_unary", lambda request, context: request)}) as channel:
            call(channel, "unary_unary", "Echo")(b"x")
            patches.remove("grpc")
            assert (grpc.server, grpc.aio.server) == before
            assert call(channel, "unary_unary", "Echo")(b"y") == b"y"
    assert len(servers(captured)) == 1


# -- grpc.aio -----------------------------------------------------------------------------------------------


async def aio_serving(methods: dict[str, Any], use: Callable[[Any], Any]) -> None:
    server = grpc.aio.server(handlers=[handlers(methods)], migration_thread_pool=ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await use(channel)
    finally:
        await server.stop(1)


async def aio_echo(request: bytes, context: Any) -> bytes:
    with aiobs.span("inside"):
        return request


async def aio_stream(request: bytes, context: Any) -> Any:
    for number in range(int(request)):
        await asyncio.sleep(0.01)
        with aiobs.span("inside"):
            yield str(number).encode()


async def aio_write(request: bytes, context: Any) -> None:
    for number in range(int(request)):
        await context.write(str(number).encode())


async def aio_total(requests: Any, context: Any) -> bytes:
    return str(sum([int(request) async for request in requests])).encode()


async def aio_doubled(requests: Any, context: Any) -> Any:
    async for request in requests:
        yield request + request


async def aio_read_write(requests: Any, context: Any) -> None:
    while True:
        request = await context.read()
        if request is grpc.aio.EOF:
            return
        await context.write(request)


def test_aio_calls_of_all_kinds() -> None:
    methods = {
        "Echo": ("unary_unary", aio_echo),
        "Stream": ("unary_stream", aio_stream),
        "Write": ("unary_stream", aio_write),
        "Total": ("stream_unary", aio_total),
        "Doubled": ("stream_stream", aio_doubled),
        "ReadWrite": ("stream_stream", aio_read_write),
        "Thread": ("unary_unary", lambda request, context: request),
        "ThreadStream": ("unary_stream", stream),
    }

    async def use(channel: Any) -> None:
        assert await call(channel, "unary_unary", "Echo")(b"x") == b"x"
        for name in ("Stream", "Write", "ThreadStream"):
            assert [message async for message in call(channel, "unary_stream", name)(b"3")] == [b"0", b"1", b"2"]
        assert await call(channel, "stream_unary", "Total")(iter([b"1", b"2"])) == b"3"
        for name, answer in (("Doubled", [b"aa", b"bb"]), ("ReadWrite", [b"a", b"b"])):
            assert [message async for message in call(channel, "stream_stream", name)(iter([b"a", b"b"]))] == answer
        assert await call(channel, "unary_unary", "Thread")(b"x") == b"x"

    with capture() as captured:
        asyncio.run(aio_serving(methods, use))
    served = {span.attributes["rpc.method"]: span for span in servers(captured)}
    counts = {
        name: (span.attributes["aiobs.rpc.messages.received"], span.attributes["aiobs.rpc.messages.sent"])
        for name, span in served.items()
    }
    assert counts == {
        "Echo": (1, 1), "Stream": (1, 3), "Write": (1, 3), "Total": (2, 1), "Doubled": (2, 2), "ReadWrite": (2, 2),
        "Thread": (1, 1), "ThreadStream": (1, 3),
    }  # fmt: skip
    assert {span.attributes["rpc.grpc.status_code"] for span in served.values()} == {0}
    for name in ("Stream", "Write", "ThreadStream", "Doubled", "ReadWrite"):
        assert served[name].attributes["aiobs.stream.chunks"] == counts[name][1]
    assert len(captured.children(served["Echo"])) == 1
    assert len(captured.children(served["Stream"])) == 3


def test_aio_calls_that_fail_or_are_left() -> None:
    async def broken_call(request: bytes, context: Any) -> bytes:
        raise LookupError("no such thing")

    async def aborted_call(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return b""

    def aborted_thread(request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return b""

    async def endless(request: bytes, context: Any) -> Any:
        while True:
            await asyncio.sleep(0.01)
            yield b"x"

    methods = {
        "Broken": ("unary_unary", broken_call), "Aborted": ("unary_unary", aborted_call),
        "Thread": ("unary_unary", aborted_thread), "Endless": ("unary_stream", endless),
        "Late": ("unary_stream", endless),
    }  # fmt: skip

    async def use(channel: Any) -> None:
        for name, code in (("Broken", 2), ("Aborted", 5), ("Thread", 5)):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(channel, "unary_unary", name)(b"x")
            assert raised.value.code().value[0] == code
        answer = call(channel, "unary_stream", "Endless")(b"")
        await answer.read()
        answer.cancel()
        with pytest.raises(grpc.aio.AioRpcError):
            async for _ in call(channel, "unary_stream", "Late")(b"", timeout=0.1):
                pass
        await asyncio.sleep(0.1)

    with capture() as captured:
        asyncio.run(aio_serving(methods, use))
    served = {span.attributes["rpc.method"]: span for span in servers(captured)}
    codes = {name: (span.attributes["rpc.grpc.status_code"], span.status) for name, span in served.items()}
    assert codes == {"Broken": (2, 2), "Aborted": (5, 0), "Thread": (5, 0), "Endless": (1, 0), "Late": (4, 2)}
    assert served["Broken"].attributes["error.type"] == "LookupError"
    for name in ("Endless", "Late"):
        assert served[name].attributes["aiobs.request.disconnected"] is True
    assert not [span for span in served.values() if "aiobs.truncated" in span.attributes]
