"""Requests to real ASGI servers, as they are recorded."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("hypercorn")

from aiobs import patches  # noqa: E402

from .asgi_app import app, make  # noqa: E402
from .asgi_serving import SERVERS, running, served  # noqa: E402

each_server = pytest.mark.parametrize("server", SERVERS)


@each_server
def test_a_request_is_a_span_with_route_and_status(server: str) -> None:
    with served(app, server) as it:
        answer = httpx.get(f"{it.url}/tenants/acme/items/7?page=2&api_key=s3cret", headers={"user-agent": "tester/1"})
        assert answer.json() == {"id": 7}
    span = it.request()
    assert span.name == "GET /tenants/{tenant}/items/{id}"
    expected = {
        "http.request.method": "GET", "http.route": "/tenants/{tenant}/items/{id}", "http.response.status_code": 200,
        "url.path": "/tenants/acme/items/7", "url.scheme": "http", "url.query": "page=2&api_key=REDACTED",
        "server.address": "127.0.0.1", "server.port": it.port, "client.address": "127.0.0.1",
        "network.protocol.version": "1.1", "user_agent.original": "tester/1",
    }  # fmt: skip
    assert span.attributes.items() >= expected.items()
    assert span.status == 0
    (work,) = it.captured.children(span)
    assert work.name == "work"
    assert span.start_ns <= work.start_ns <= work.end_ns <= span.end_ns
    assert not any("s3cret" in str(value) for value in span.attributes.values())


@each_server
def test_names_stay_few_whatever_is_asked_for(server: str) -> None:
    # httptools, where it is installed, refuses the method itself
    with served(app, server, {"http": "h11"} if server == "uvicorn" else {}) as it:
        httpx.get(f"{it.url}/no/such/{time.time()}")
        httpx.get(f"{it.url}/plain/file/{time.time()}")
        httpx.request("BREW", it.url)
    assert [span.name for span in it.requests()] == ["GET", "GET /plain/{path}", "HTTP /"]
    brewed = it.requests()[-1].attributes
    assert brewed["http.request.method"] == "_OTHER" and brewed["http.request.method_original"] == "BREW"
    assert it.requests()[0].attributes["http.response.status_code"] == 404
    assert all(span.status == 0 for span in it.requests())


@each_server
def test_a_streamed_answer_tells_when_its_chunks_left(server: str) -> None:
    with served(app, server) as it:
        httpx.get(f"{it.url}/ticks?n=21&gap=0.02")
    span = it.request("GET /ticks")
    facts = span.attributes
    assert facts["aiobs.stream.chunks"] == 21
    assert facts["aiobs.stream.time_to_first_chunk"] < 0.02
    assert 0.0195 < facts["aiobs.stream.chunk.p50"] < 0.03
    assert facts["aiobs.stream.chunk.p50"] <= facts["aiobs.stream.chunk.p95"] <= facts["aiobs.stream.chunk.p99"]
    assert facts["aiobs.stream.chunk.p99"] <= facts["aiobs.stream.chunk.max"]
    assert facts["aiobs.stream.stalls"] == 0 and not span.events
    assert 0.4 < span.duration_s < 0.7


def test_an_answer_of_known_length_does_not_stream() -> None:
    with served(app) as it:
        httpx.get(f"{it.url}/middle/")
    assert "aiobs.stream.chunks" not in it.request("GET /middle/").attributes


def raw_answer(port: int, request: bytes) -> bytes:
    """All the bytes a server answers, without the date."""
    import socket

    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return b"\r\n".join(line for line in received.split(b"\r\n") if not line.lower().startswith(b"date:"))


@each_server
def test_answers_are_the_same_bytes(server: str) -> None:
    asked = [
        b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept-encoding: gzip\r\n\r\n" % path
        for path in (
            b"/",
            b"/ticks?n=5&gap=0.001",
            b"/middle/ticks?n=3&gap=0.001",
            b"/fail",
            b"/nope",
            b"/plain/x",
            b"/later",
        )
    ]
    asked.append(
        b"POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    asked.append(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    with running(app, server) as port:
        without = [raw_answer(port, request) for request in asked]
    with served(app, server) as it:
        recorded = [raw_answer(it.port, request) for request in asked]
    assert recorded == without
    assert all(without)
    assert len(it.requests()) == len(asked)


@each_server
def test_two_hundred_streams_at_once_keep_their_own(server: str) -> None:
    async def ask(client: Any, tag: str) -> str:
        return str((await client.get(f"/ticks?n=4&gap=0.01&tag={tag}-")).text)

    async def ask_all(url: str) -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(ask(client, f"t{number}") for number in range(200)))

    with served(app, server) as it:
        answers = asyncio.run(ask_all(it.url))
    assert answers == ["".join(f"data: t{number}-{chunk}\n\n" for chunk in range(4)) for number in range(200)]
    spans = it.requests("GET /ticks")
    assert len(spans) == len({span.span_id for span in spans}) == 200
    for span in spans:
        (inner,) = it.captured.children(span)
        assert span.attributes["url.query"] == f"n=4&gap=0.01&tag={inner.attributes['tag']}"
        assert span.attributes["aiobs.stream.chunks"] == 4
    assert len({span.trace_id for span in spans}) == 200


@each_server
def test_requests_on_one_connection_are_apart(server: str) -> None:
    with served(app, server) as it, httpx.Client(base_url=it.url) as client:
        for _ in range(3):
            assert client.get("/").text == "home"
        with client.stream("POST", "/upload", content=(b"x" * 65536 for _ in range(320))) as answer:
            assert json.loads(answer.read()) == {"size": 320 * 65536}
    assert [span.name for span in it.requests()] == ["GET /"] * 3 + ["POST /upload"]
    assert len({span.trace_id for span in it.requests()}) == 4


def test_work_behind_the_answer_is_the_requests_but_not_its_duration() -> None:
    with served(app) as it:
        assert httpx.get(f"{it.url}/later").status_code == 202
        httpx.get(f"{it.url}/later?fail=1")
        time.sleep(0.1)
    good, bad = it.requests("GET /later")
    assert good.duration_s < 0.04 and good.status == bad.status == 0
    (behind,) = it.captured.children(good)
    assert behind.name == "background" and behind.start_ns >= good.end_ns
    assert 0.045 < behind.duration_s < 0.1
    assert behind.attributes["code.function.name"].endswith("later.<locals>.task")
    assert [span.name for span in it.captured.children(behind)] == ["mail"]
    (failed,) = it.captured.children(bad)
    assert failed.status == 2 and failed.attributes["error.type"] == "RuntimeError"


def test_an_application_of_the_old_interface() -> None:
    class Old:
        def __init__(self, scope: Any) -> None:
            self.scope = scope

        async def __call__(self, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    with served(Old, options={"lifespan": "off"}) as it:
        assert httpx.get(it.url).status_code == 204
    assert it.request().attributes["http.response.status_code"] == 204


def test_a_factory_and_the_users_own_application_object() -> None:
    app = make()
    with served(lambda: app, options={"factory": True}) as it:
        assert httpx.get(it.url).text == "home"
    assert it.request().name == "GET /"
    assert type(app).__name__ == "Starlette" and "observed_app" not in vars(app)


def test_the_servers_own_view_of_the_client_behind_a_proxy() -> None:
    with served(app) as it:
        httpx.get(it.url, headers={"x-forwarded-for": "203.0.113.9"})
    assert it.request().attributes["client.address"] == "203.0.113.9"


def test_what_is_patched_is_as_before_after_removal() -> None:
    from hypercorn.app_wrappers import ASGIWrapper
    from uvicorn.config import Config

    before = Config.load, ASGIWrapper.__call__
    config = Config(app)
    with served(app) as it:
        assert (Config.load, ASGIWrapper.__call__) != before
        config.load()
        httpx.get(it.url)
        patches.remove("asgi")
        assert (Config.load, ASGIWrapper.__call__) == before
        assert not hasattr(config.loaded_app, "observed_app")
        assert httpx.get(it.url).text == "home"  # a server that runs goes on, unrecorded
    assert len(it.requests()) == 1


def test_the_patch_can_be_switched_off() -> None:
    with served(app, patches_off=("asgi", "httpx")) as it:
        httpx.get(it.url)
    assert not it.requests()


def test_fastapi_routes_with_prefixes_and_sub_applications() -> None:
    fastapi = pytest.importorskip("fastapi")
    inner, outer, router = fastapi.FastAPI(), fastapi.FastAPI(), fastapi.APIRouter(prefix="/users")

    @router.get("/{name}")
    async def user(name: str) -> str:
        return name

    @inner.get("/deep/{number}")
    def deep(number: int) -> int:
        return number

    outer.include_router(router, prefix="/api")
    inner.include_router(router)
    outer.mount("/sub/{part}", inner)
    with served(outer) as it:
        assert httpx.get(f"{it.url}/api/users/ann").json() == "ann"
        assert httpx.get(f"{it.url}/sub/a/deep/3").json() == 3
        assert httpx.get(f"{it.url}/sub/a/users/bob").json() == "bob"
        assert httpx.get(f"{it.url}/sub/a/deep/x").status_code == 422
    assert [span.attributes["http.route"] for span in it.requests()] == [
        "/api/users/{name}", "/sub/{part}/deep/{number}", "/sub/{part}/users/{name}", "/sub/{part}/deep/{number}",
    ]  # fmt: skip


def test_big_answers_pass_unharmed() -> None:
    block = hashlib.sha256(b"seed").digest() * 32768

    async def big(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(16):
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    with served(big, options={"lifespan": "off"}) as it:
        assert hashlib.sha256(httpx.get(it.url).content).digest() == hashlib.sha256(block * 16).digest()
    assert it.request().attributes["aiobs.stream.chunks"] == 16
