"""What goes wrong in a server: told apart, and never made worse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
websockets = pytest.importorskip("websockets.sync.client")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("hypercorn")

from .asgi_app import app  # noqa: E402
from .asgi_serving import SERVERS, served  # noqa: E402
from .processes import free_port, wait_for  # noqa: E402

each_server = pytest.mark.parametrize("server", SERVERS)


@each_server
def test_an_exception_before_the_first_byte(server: str) -> None:
    with served(app, server) as it:
        assert httpx.get(f"{it.url}/fail").status_code == 500
    span = it.request("GET /fail")
    assert span.status == 2 and span.attributes["error.type"] == "RuntimeError"
    assert span.attributes["http.response.status_code"] == 500
    (event,) = [event for event in span.events if event.name == "exception"]
    assert event.attributes["exception.message"] == "before the first byte"
    assert "asgi_app.py" in str(event.attributes["exception.stacktrace"])


async def raises_at_once(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("no answer at all")


async def answers_nothing(scope: Any, receive: Any, send: Any) -> None:
    """Returns without an answer."""


@each_server
def test_an_application_that_does_not_answer(server: str) -> None:
    off = {"lifespan": "off"} if server == "uvicorn" else {}
    with served(raises_at_once, server, off) as it:
        assert httpx.get(it.url).status_code == 500
    assert it.request().attributes["error.type"] == "LookupError"
    assert it.request().attributes["http.response.status_code"] == 500
    with served(answers_nothing, server, off) as it:
        assert httpx.get(it.url).status_code == 500
    assert it.request().attributes["error.type"] == "incomplete_response"


@each_server
def test_an_exception_after_the_first_byte(server: str) -> None:
    with served(app, server) as it:
        with contextlib.suppress(httpx.RemoteProtocolError):
            httpx.get(f"{it.url}/ticks?n=9&gap=0.001&at=4&fail=1")
    span = it.request("GET /ticks")
    assert span.status == 2 and span.attributes["error.type"] == "ValueError"
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["aiobs.stream.chunks"] == 4
    assert "aiobs.request.disconnected" not in span.attributes


def leave(port: int, path: str, after: bytes) -> None:
    """Ask, wait for a piece of the answer, and go."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        received = b""
        while after not in received:
            received += connection.recv(4096)


@each_server
def test_a_client_that_leaves_in_the_middle_is_no_error(server: str) -> None:
    with served(app, server) as it:
        leave(it.port, "/ticks?n=500&gap=0.01&tag=t", b"t3")
        time.sleep(0.3)
    span = it.request("GET /ticks")
    assert span.attributes["aiobs.request.disconnected"] is True
    assert span.status == 0 and "error.type" not in span.attributes
    assert 3 < span.attributes["aiobs.stream.chunks"] < 60
    assert [event.name for event in span.events] == ["aiobs.request.disconnected"]
    assert span.duration_s < 0.6


@each_server
def test_a_client_that_leaves_an_application_that_never_looks(server: str) -> None:
    async def blind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(30):
            await send({"type": "http.response.body", "body": b"t%d" % number, "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b""})

    with served(blind, server, {"lifespan": "off"} if server == "uvicorn" else {}) as it:
        leave(it.port, "/", b"t3")
        time.sleep(0.5)
    span = it.request()
    assert span.attributes["aiobs.request.disconnected"] is True
    assert span.status == 0 and "error.type" not in span.attributes


@each_server
def test_a_client_that_goes_during_an_upload_is_no_error(server: str) -> None:
    with served(app, server) as it:
        with socket.create_connection(("127.0.0.1", it.port)) as connection:
            connection.sendall(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nsome of it")
            time.sleep(0.1)
        time.sleep(0.2)
    span = it.request("POST /upload")
    assert span.attributes["aiobs.request.disconnected"] is True
    assert span.status == 0 and "error.type" not in span.attributes


def test_a_client_that_stays_is_not_said_to_have_left() -> None:
    async def listens(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        listener = asyncio.create_task(listen())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all"})
        await listener

    for server in SERVERS:
        with served(listens, server, {"lifespan": "off"} if server == "uvicorn" else {}) as it:
            assert httpx.get(it.url).text == "all"
        assert "aiobs.request.disconnected" not in it.request().attributes


def test_a_blocked_event_loop_is_told_from_a_slow_upstream() -> None:
    with served(app) as it:
        httpx.get(f"{it.url}/ticks?n=8&at=5&block=0.4&gap=0.01")
        httpx.get(f"{it.url}/ticks?n=8&at=5&wait=0.4&gap=0.01")

        async def beside() -> None:
            async with httpx.AsyncClient(base_url=it.url) as client:
                victim = asyncio.create_task(client.get("/ticks?n=40&gap=0.01&tag=victim"))
                await asyncio.sleep(0.1)
                await client.get("/ticks?n=3&at=1&block=0.4")
                await victim

        asyncio.run(beside())
    blocked, slow, victim, _ = it.requests("GET /ticks")
    for span, cause in ((blocked, "event_loop"), (slow, "upstream"), (victim, "event_loop")):
        (stall,) = [event for event in span.events if event.name == "aiobs.stream.stall"]
        assert stall.attributes["aiobs.stream.stall.cause"] == cause
        assert 0.39 < float(str(stall.attributes["aiobs.stream.stall.duration"])) < 0.55
        assert span.attributes["aiobs.stream.stalls"] == 1
    assert blocked.attributes["aiobs.request.event_loop.blocked"] > 0.3
    assert victim.attributes["aiobs.request.event_loop.blocked"] > 0.3
    assert slow.attributes.get("aiobs.request.event_loop.blocked", 0) < 0.1
    (stall,) = [event for event in blocked.events if event.name == "aiobs.stream.stall"]
    assert stall.attributes["aiobs.stream.stall.after_chunk"] == 5


@each_server
def test_websockets(server: str) -> None:
    with served(app, server) as it:
        base = f"ws://127.0.0.1:{it.port}/echo"
        with websockets.connect(f"{base}/a?token=s3cret") as connection:
            for text in ("one", "two"):
                connection.send(text)
                assert connection.recv() == text.upper()
        with websockets.connect(f"{base}/b") as connection:
            connection.send("bye")
            with pytest.raises(Exception, match="4001"):
                connection.recv()
        with pytest.raises(Exception, match="403"):
            with websockets.connect(f"{base}/c?refuse=1"):
                pass
        with websockets.connect(f"{base}/d") as connection:
            connection.send("fail")
            with pytest.raises(Exception, match=r"1011|1006|no close frame|internal error"):
                connection.recv()
        time.sleep(0.1)
    spans = it.requests("GET /echo/{room}")
    facts = [span.attributes for span in spans]
    assert [it["http.response.status_code"] for it in facts] == [101, 101, 403, 101]
    assert [it["aiobs.websocket.messages.received"] for it in facts] == [2, 1, 0, 1]
    assert [it["aiobs.websocket.messages.sent"] for it in facts] == [2, 0, 0, 0]
    # hypercorn tells its applications that the other side broke off, however it closed
    assert [it["aiobs.websocket.close_code"] for it in facts[:2]] == [1000 if server == "uvicorn" else 1006, 4001]
    assert [span.status for span in spans] == [0, 0, 0, 2]
    assert facts[3]["error.type"] == "RuntimeError"
    assert all(it["network.protocol.name"] == "websocket" for it in facts)
    assert facts[0]["url.query"] == "token=REDACTED"


@each_server
def test_a_websocket_that_breaks_is_no_error(server: str) -> None:
    with served(app, server) as it:
        with websockets.connect(f"ws://127.0.0.1:{it.port}/echo/a") as connection:
            connection.send("one")
            assert connection.recv() == "ONE"
            connection.socket.shutdown(socket.SHUT_RDWR)
        time.sleep(0.2)
    span = it.request("GET /echo/{room}")
    assert span.status == 0 and span.attributes["aiobs.websocket.close_code"] in (1005, 1006)
    assert span.attributes["aiobs.websocket.messages.received"] == 1


def test_lifespan_failures_are_not_hidden() -> None:
    async def ill(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        raise AssertionError("not served")

    import uvicorn

    from aiobs.testing import capture

    with capture():
        server = uvicorn.Server(uvicorn.Config(ill, port=free_port(), log_level="critical", lifespan="on"))
        with contextlib.suppress(SystemExit):
            server.run()
        assert not server.started and server.lifespan.startup_failed


LAUNCH = [
    sys.executable,
    "-m",
    "aiobs.cli",
    "run",
    "--",
    sys.executable,
    "-m",
    "uvicorn",
    "asgi_app:app",
    "--log-level",
    "error",
]


def exported(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The spans of a run folder by name, with their attributes under ``attributes``."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in folder.glob("**/traces*.jsonl"):
        for line in file.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        span["attributes"] = {
                            it["key"]: next(iter(it["value"].values())) for it in span.get("attributes", ())
                        }
                        found.setdefault(span["name"], []).append(span)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_leaves_its_request_with_the_cause(tmp_path: Path, workers: int) -> None:
    port = free_port()
    more = ["--workers", str(workers)] if workers > 1 else []
    launched = subprocess.Popen(
        [*LAUNCH, "--port", str(port), *more],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "AIOBS_RUN_DIR": str(tmp_path / "run")},
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(port, launched)
        worker = int(httpx.get(f"http://127.0.0.1:{port}/pid", timeout=20).text)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /sleepy HTTP/1.1\r\nhost: x\r\n\r\n")
            if workers > 1:  # whichever worker took it
                worker = taker(port, connection, worker)
            time.sleep(0.3)
            os.kill(worker, signal.SIGKILL)
            time.sleep(0.3)
    finally:
        launched.send_signal(signal.SIGINT)
        launched.wait(30)
    spans = exported(tmp_path / "run")
    (killed,) = [span for span in spans["GET"] if span["attributes"].get("url.path") == "/sleepy"]
    assert killed["kind"] == 2
    assert killed["attributes"]["aiobs.truncated"] is True
    assert killed["attributes"]["aiobs.exit.cause"] == "signal"
    assert killed["attributes"]["aiobs.exit.signal"] == "SIGKILL"
    assert all("aiobs.truncated" not in span["attributes"] for span in spans["GET /pid"])


def taker(port: int, connection: socket.socket, first: int) -> int:
    """The pid of the process that holds the other end of `connection`."""
    local = connection.getsockname()[1]
    pattern = f"{port:04X} 0100007F:{local:04X}"
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for line in Path("/proc/net/tcp").read_text().splitlines():
            if pattern in line:
                inode = line.split()[9]
                for entry in Path("/proc").glob("[0-9]*/fd/*"):
                    with contextlib.suppress(OSError):
                        if os.readlink(entry) == f"socket:[{inode}]":
                            return int(entry.parts[2])
        time.sleep(0.02)
    return first
