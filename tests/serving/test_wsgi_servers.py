"""WSGI applications on real servers, in this process's threads and in processes of their own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest

from aiobs import patches
from aiobs.testing import Captured, CapturedSpan, capture

from .wsgi_app import CONTENT, application, closed, slowly

# -- servers in threads -------------------------------------------------------------------------------------


@contextmanager
def in_thread(serve: Callable[[], None], stop: Callable[[], None], port: int) -> Iterator[int]:
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield port
    finally:
        stop()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def wsgiref() -> Iterator[int]:
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        with in_thread(lambda: server.serve_forever(0.01), server.shutdown, server.server_port) as port:
            yield port


@contextmanager
def werkzeug() -> Iterator[int]:
    serving = pytest.importorskip("werkzeug.serving")
    server = serving.make_server("127.0.0.1", 0, application, threaded=True)
    server.log = lambda *args: None
    with in_thread(lambda: server.serve_forever(0.01), server.shutdown, server.server_port) as port:
        yield port
    server.server_close()


@contextmanager
def waitress() -> Iterator[int]:
    module = pytest.importorskip("waitress.server")
    server = module.create_server(application, host="127.0.0.1", port=0, threads=4)
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            server.asyncore.loop(timeout=0.02, map=server._map, count=1)
        server.task_dispatcher.shutdown()
        for channel in list(server.active_channels.values()):
            channel.handle_close()
        server.close()

    with in_thread(serve, stopped.set, int(server.effective_port)) as port:
        yield port


@contextmanager
def cheroot() -> Iterator[int]:
    module = pytest.importorskip("cheroot.wsgi")
    server = module.Server(("127.0.0.1", 0), application, numthreads=4)
    server.error_log = lambda *args, **kwargs: None
    server.prepare()
    with in_thread(server.serve, server.stop, server.bind_addr[1]) as port:
        yield port


SERVERS = [wsgiref, werkzeug, waitress, cheroot]


def get(
    port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, list[tuple[str, str]]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, content, [pair for pair in answer.getheaders() if pair[0] not in ("Date", "Server")]
    finally:
        connection.close()


def leave(port: int, path: str) -> None:
    """Ask, take the beginning of the answer, and go."""
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while b"2," not in caller.recv(4096):
            pass


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def requests(captured: Captured) -> list[CapturedSpan]:
    return sorted((span for span in captured.spans if span.kind == 2), key=lambda span: span.start_ns)


@pytest.mark.parametrize("server", SERVERS)
def test_what_a_request_tells(server: Any) -> None:
    with capture() as captured:
        with server() as port:
            assert get(port, "/hello?key=secret-value&page=2")[:2] == (200, b"hello")
            assert get(port, "/missing", traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")[0] == 404
    hello, missing = requests(captured)
    wanted = {
        "http.request.method": "GET", "url.path": "/hello", "url.scheme": "http", "http.response.status_code": 200,
        "client.address": "127.0.0.1", "server.port": port, "network.protocol.version": "1.1",
    }  # fmt: skip
    assert {key: hello.attributes.get(key) for key in wanted} == wanted
    assert hello.name == "GET"
    assert "secret-value" not in repr(captured.spans)
    assert missing.attributes["http.response.status_code"] == 404
    assert (missing.status, missing.trace_id, missing.parent_id) == (0, "ab" * 16, "cd" * 8)


@pytest.mark.parametrize("server", SERVERS)
def test_a_streamed_answer(server: Any) -> None:
    closed.clear()
    with capture() as captured:
        with server() as port:
            assert get(port, "/stream")[1] == b"0,1,2,3,4,"
            until(lambda: closed)
    [streamed] = requests(captured)
    assert closed == ["closed"]
    assert streamed.attributes["aiobs.stream.chunks"] == 5
    assert 0.009 < streamed.attributes["aiobs.stream.time_to_first_chunk"] < 1
    assert 0.009 < streamed.attributes["aiobs.stream.chunk.p50"] < 0.5
    assert streamed.status == 0
    assert "aiobs.request.disconnected" not in streamed.attributes
    assert len(captured.children(streamed)) == 5


@pytest.mark.parametrize("server", SERVERS)
def test_a_caller_that_leaves_is_no_error(server: Any) -> None:
    closed.clear()
    with capture() as captured:
        with server() as port:
            leave(port, "/endless")
            until(lambda: closed)
    [left] = requests(captured)
    assert left.attributes["aiobs.request.disconnected"] is True
    assert left.status == 0
    assert "error.type" not in left.attributes


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("server", SERVERS)
def test_an_application_that_fails(server: Any, capfd: Any) -> None:
    closed.clear()
    with capture() as captured:
        with server() as port:
            assert get(port, "/raise")[0] == 500
            try:
                get(port, "/break")
            except (OSError, HTTPException):
                pass
            until(lambda: closed)
    capfd.readouterr()
    at_once, half_way = requests(captured)
    assert closed == ["closed"]
    assert (at_once.status, at_once.attributes["error.type"]) == (2, "LookupError")
    assert at_once.attributes["http.response.status_code"] == 500
    assert (half_way.status, half_way.attributes["error.type"]) == (2, "LookupError")
    assert half_way.attributes["aiobs.stream.chunks"] == 1
    assert "aiobs.request.disconnected" not in half_way.attributes


@pytest.mark.parametrize("server", SERVERS)
def test_answers_are_the_same_to_the_byte(server: Any, capfd: Any) -> None:
    def answers(port: int) -> list[Any]:
        asked: list[Any] = [get(port, path) for path in ("/hello", "/write", "/again", "/file", "/stream", "/missing")]
        asked.append(get(port, "/echo", "POST", CONTENT))
        asked.append(get(port, "/hello", "HEAD"))
        return asked

    with server() as port:
        usual = answers(port)
    with capture() as captured:
        with server() as port:
            assert answers(port) == usual
    capfd.readouterr()
    statuses = [span.attributes["http.response.status_code"] for span in requests(captured)]
    assert statuses == [200, 200, 503, 200, 200, 404, 200, 200]
    assert not [span for span in requests(captured) if "aiobs.request.disconnected" in span.attributes]


def test_a_removed_patch_leaves_running_servers_silent() -> None:
    from wsgiref.handlers import BaseHandler

    before = BaseHandler.run
    with capture() as captured:
        with werkzeug() as port, wsgiref() as other:
            get(port, "/hello")
            get(other, "/hello")
            patches.remove("wsgi")
            assert BaseHandler.run is before
            assert get(port, "/hello")[1] == get(other, "/hello")[1] == b"hello"
    assert len(requests(captured)) == 2


# -- frameworks ---------------------------------------------------------------------------------------------


@contextmanager
def served(app: Any) -> Iterator[int]:
    global application
    before, application = application, app
    try:
        with wsgiref() as port:
            yield port
    finally:
        application = before


def test_flask_names_its_routes_and_failures() -> None:
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")

    @app.get("/items/<int:number>")
    def item(number: int) -> str:
        return str(number)

    @app.get("/broken")
    def broken() -> str:
        raise LookupError("no such thing")

    with capture() as captured:
        with served(app) as port:
            assert get(port, "/items/7")[1] == b"7"
            assert get(port, "/nowhere")[0] == 404
            assert get(port, "/broken")[0] == 500
    found, nowhere, failed = requests(captured)
    assert (found.name, found.attributes["http.route"]) == ("GET /items/<int:number>", "/items/<int:number>")
    assert nowhere.name == "GET"
    assert (failed.name, failed.status, failed.attributes["error.type"]) == ("GET /broken", 2, "LookupError")


def test_django_names_its_routes_and_failures(capfd: Any) -> None:
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    def item(request: Any, number: int) -> Any:
        return HttpResponse(str(number))

    def stream(request: Any) -> Any:
        return StreamingHttpResponse(slowly(3))

    def broken(request: Any) -> Any:
        raise LookupError("no such thing")

    if not settings.configured:
        urls = type(
            "urls",
            (),
            {"urlpatterns": [path("items/<int:number>/", item), path("stream", stream), path("broken", broken)]},
        )
        settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], SECRET_KEY="x", DEBUG_PROPAGATE_EXCEPTIONS=False)
        django.setup()
    with capture() as captured:
        with served(get_wsgi_application()) as port:
            assert get(port, "/items/7/")[1] == b"7"
            assert get(port, "/stream")[1] == b"0,1,2,"
            assert get(port, "/broken")[0] == 500
    capfd.readouterr()
    found, streamed, failed = requests(captured)
    assert found.name == "GET /items/<int:number>/"
    assert streamed.attributes["aiobs.stream.chunks"] == 3
    assert (failed.name, failed.attributes["error.type"]) == ("GET /broken", "LookupError")


def test_falcon_and_bottle_name_their_routes() -> None:
    falcon, bottle = pytest.importorskip("falcon"), pytest.importorskip("bottle")

    class Item:
        def on_get(self, request: Any, response: Any, number: str) -> None:
            response.text = number

    one = falcon.App()
    one.add_route("/items/{number}", Item())
    other = bottle.Bottle()
    other.route("/items/<number>")(lambda number: number)
    with capture() as captured:
        for app in (one, other):
            with served(app) as port:
                assert get(port, "/items/7")[1] == b"7"
    assert [span.name for span in requests(captured)] == ["GET /items/{number}", "GET /items/<number>"]


def test_inference_under_flask() -> None:
    import json

    flask = pytest.importorskip("flask")
    app = flask.Flask("models")

    @app.post("/v1/chat/completions")
    def chat() -> Any:
        asked = flask.request.get_json()
        if not asked.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
            return {
                "id": "1",
                "model": "m-1",
                "choices": [choice],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            }

        def events() -> Iterator[str]:
            for word in ("a", "b", "c"):
                yield (
                    "data: "
                    + json.dumps({"id": "2", "model": "m-1", "choices": [{"index": 0, "delta": {"content": word}}]})
                    + "\n\n"
                )
            yield "data: [DONE]\n\n"

        return flask.Response(events(), mimetype="text/event-stream")

    question = {"model": "m", "messages": [{"role": "user", "content": "private words"}]}
    with capture() as captured:
        with served(app) as port:
            for stream in (False, True):
                body = json.dumps({**question, "stream": stream}).encode()
                get(port, "/v1/chat/completions", "POST", body, **{"Content-Type": "application/json"})
    whole, streamed = requests(captured)
    for span in (whole, streamed):
        assert span.attributes["gen_ai.request.model"] == "m"
        assert span.attributes["gen_ai.operation.name"] == "chat"
    assert whole.attributes["gen_ai.usage.output_tokens"] == 2
    assert whole.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert streamed.attributes["aiobs.usage.source"] == "chunks"
    assert streamed.attributes["gen_ai.usage.output_tokens"] == 3
    assert "private words" not in repr(captured.spans)
