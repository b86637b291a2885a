"""httpx, httpx2, requests and aiohttp against a real server: the context goes where it may, spans are not doubled."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import aiobs
from aiobs import patches
from aiobs.patches.outbound import Outbound, is_private
from aiobs.propagation import enter_chaos, extract, leave_chaos
from aiobs.testing import Captured, CapturedSpan, capture

from .processes import free_port, running

pytest.importorskip("starlette")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    port = free_port()
    with running(
        [str(Path(__file__).parent / "openai_server.py"), str(port)], port, {**os.environ, "AIOBS_ENABLED": "0"}
    ):
        yield f"http://127.0.0.1:{port}"


def with_httpx(url: str, headers: dict[str, str]) -> Any:
    module = pytest.importorskip("httpx")
    with module.Client() as client:
        return client.get(url, headers=headers).json()


def with_httpx_async(url: str, headers: dict[str, str]) -> Any:
    module = pytest.importorskip("httpx2")

    async def ask() -> Any:
        async with module.AsyncClient() as client:
            return (await client.get(url, headers=headers)).json()

    return asyncio.run(ask())


def with_requests(url: str, headers: dict[str, str]) -> Any:
    with pytest.importorskip("requests").Session() as session:
        return session.get(url, headers=headers).json()


def with_aiohttp(url: str, headers: dict[str, str]) -> Any:
    module = pytest.importorskip("aiohttp")

    async def ask() -> Any:
        async with module.ClientSession() as session, session.get(url, headers=headers) as answer:
            return await answer.json()

    return asyncio.run(ask())


CLIENTS = [with_httpx, with_httpx_async, with_requests, with_aiohttp]
Ask = Callable[[str, dict[str, str]], Any]


def sent(server: str, ask: Ask, headers: dict[str, str] | None = None) -> dict[str, str]:
    """The headers that reach the server."""
    ask(server + "/take", headers or {})
    connection = HTTPConnection(server.removeprefix("http://"))
    connection.request("GET", "/seen")
    (found,) = json.loads(connection.getresponse().read())
    connection.close()
    return dict(found)


def clients(captured: Captured) -> list[CapturedSpan]:
    return [span for span in captured.spans if span.kind == 3]


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_request_is_a_span_and_carries_it(server: str, ask: Ask) -> None:
    pytest.importorskip("opentelemetry.instrumentation.httpx")
    with capture() as captured:
        with aiobs.span("asking"):
            headers = sent(server, ask)
    [span] = clients(captured)
    context = extract(headers)
    assert span.parent_id == captured.span("asking").span_id
    assert context is not None
    assert (context.trace_id.hex(), context.span_id.hex()) == (span.trace_id, span.span_id)


@pytest.mark.parametrize("ask", CLIENTS)
def test_without_opentelemetrys_package_the_context_goes_all_the_same(
    server: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "httpx, httpx2, requests, aiohttp-client")
    own = f"00-{'ab' * 16}-{'cd' * 8}-01"
    with capture() as captured:
        with aiobs.span("asking"):
            headers = sent(server, ask)
            kept = sent(server, ask, {"traceparent": own})
    context = extract(headers)
    assert not clients(captured)
    assert context is not None and context.span_id.hex() == captured.span("asking").span_id
    assert kept["traceparent"] == own


@pytest.mark.parametrize("spans", [True, False], ids=["with spans", "context alone"])
@pytest.mark.parametrize("ask", CLIENTS)
def test_the_context_stays_at_home_where_told(
    server: str, ask: Ask, spans: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not spans:
        monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "httpx,httpx2,requests,aiohttp-client")
    with capture(propagate_to=("*.example.com",)) as captured:
        with aiobs.span("asking"):
            headers = sent(server, ask)
    assert not {"traceparent", "tracestate", "baggage"} & set(headers)
    assert len(clients(captured)) == spans


@pytest.mark.parametrize("ask", CLIENTS)
def test_baggage_stays_at_home_too(server: str, ask: Ask) -> None:
    baggage = pytest.importorskip("opentelemetry.baggage")
    context = pytest.importorskip("opentelemetry.context")
    pytest.importorskip("opentelemetry.instrumentation.httpx")
    for hosts, there in ((("private",), True), (("none",), False)):
        with capture(propagate_to=hosts):
            token = context.attach(baggage.set_baggage("tenant", "secret"))
            try:
                headers = sent(server, ask)
            finally:
                context.detach(token)
        assert ("baggage" in headers) is there


def test_the_programs_own_headers_object_is_left_as_it_was(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "httpx,httpx2,requests,aiohttp-client")
    httpx, requests = pytest.importorskip("httpx"), pytest.importorskip("requests")
    with capture(), aiobs.span("asking"):
        with httpx.Client() as client:
            request = client.build_request("GET", server + "/seen")
            before = list(request.headers.raw)
            client.send(request)
            assert list(request.headers.raw) == before
        with requests.Session() as session:
            prepared = session.prepare_request(requests.Request("GET", server + "/seen"))
            there = dict(prepared.headers)
            session.send(prepared)
            assert dict(prepared.headers) == there


def test_removed_everything_is_as_before() -> None:
    httpx, requests, aiohttp = (pytest.importorskip(name) for name in ("httpx", "requests", "aiohttp"))

    def places() -> list[Any]:
        return [
            httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request, requests.Session.send,
            requests.adapters.HTTPAdapter.send, aiohttp.client_reqrep.ClientRequest.send, aiohttp.ClientSession.__init__,
        ]  # fmt: skip

    before = places()
    with capture():
        assert not set(map(id, places())) & {id(before[0]), id(before[3]), id(before[4])}
        for name in ("httpx", "requests", "aiohttp_client"):
            patches.remove(name)
        assert places() == before


@pytest.mark.parametrize(
    ("hosts", "host", "allowed"),
    [
        (("private",), "localhost", True), (("private",), "10.1.2.3", True), (("private",), "[::1]", True),
        (("private",), "192.168.0.1", True), (("private",), "vllm", True), (("private",), "vllm.prod.svc.cluster.local", True),
        (("private",), "api.openai.com", False), (("private",), "8.8.8.8", False), (("private",), "::ffff:8.8.8.8", False),
        (("private", "*.example.com"), "API.Example.com.", True), (("*.example.com",), "localhost", False),
        (("private", "*.example.com"), "example.com.evil.org", False), (("all",), "api.openai.com", True),
        (("none",), "localhost", False), ((), "localhost", False),
    ],
)  # fmt: skip
def test_hosts_that_the_context_may_go_to(hosts: tuple[str, ...], host: str, allowed: bool) -> None:
    assert Outbound(hosts).allows(host) is allowed


def test_names_are_never_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: pytest.fail("looked up"))
    assert not is_private("intranet.example.com")


def test_the_mark_of_test_traffic_goes_where_the_context_goes_and_no_other_baggage() -> None:
    mark = enter_chaos({"baggage": "customer=42, aiobs.chaos=signed"})
    try:
        assert Outbound(("private",)).carry("localhost") == {"baggage": "aiobs.chaos=signed"}
        assert Outbound(("private",)).carry("api.example.com") == {}
    finally:
        leave_chaos(mark)
    assert Outbound(("private",)).carry("localhost") == {}


@pytest.mark.parametrize("traced", [True, False])
def test_the_mark_that_opentelemetry_sends_to_everybody_stays_at_home(traced: bool) -> None:
    baggage = pytest.importorskip("opentelemetry.baggage")
    context = pytest.importorskip("opentelemetry.context")
    propagator = pytest.importorskip("opentelemetry.baggage.propagation").W3CBaggagePropagator()
    token = context.attach(baggage.set_baggage("aiobs.chaos", "pay-load_1.sig", baggage.set_baggage("tenant", "a")))
    try:
        for host, there in (("localhost", True), ("api.example.com", False)):
            headers = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"} if traced else {}
            propagator.inject(headers)
            sent_by_them = headers["baggage"]
            undo = Outbound(("private",), injected=True).adjust(headers, host)
            assert "tenant=a" in headers["baggage"]
            assert ("aiobs.chaos=pay-load_1.sig" in headers["baggage"]) is there
            if undo is not None:
                undo()
            assert headers["baggage"] == sent_by_them
    finally:
        context.detach(token)
