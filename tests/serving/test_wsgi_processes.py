"""gunicorn and its workers, and gevent's server, started by ``aiobs run``, looked at in the run folder."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .processes import free_port, wait_for
from .runs import recorded, spans_of

pytestmark = pytest.mark.slow


@contextmanager
def serving(folder: Path, port: int, command: list[str]) -> Iterator[int]:
    """That command, with the application for tests on its path."""
    environment = {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = recorded(folder, command, **environment)
    try:
        wait_for(port, process)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@contextmanager
def gunicorn(folder: Path, *options: str) -> Iterator[int]:
    pytest.importorskip("gunicorn")
    port = free_port()
    command = ["-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--log-level", "error", "--no-control-socket"]
    with serving(folder, port, [*command, *options, "wsgi_app:application"]):
        yield port


GEVENT = """
import sys
from gevent import monkey, signal_handler
monkey.patch_all()
from gevent.pywsgi import WSGIServer
from wsgi_app import application
server = WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None)
signal_handler(15, server.stop)
server.serve_forever()
"""


@contextmanager
def gevent(folder: Path) -> Iterator[int]:
    pytest.importorskip("gevent")
    script, port = folder / "serve.py", free_port()
    script.write_text(GEVENT)
    with serving(folder, port, [str(script), str(port)]):
        yield port


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def answered(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        span["attributes"]["url.path"]: span
        for span in spans_of(folder)
        if span["kind"] == 2 and not span["name"].endswith("(started)")
    }


def sync_worker(folder: Path) -> AbstractContextManager[int]:
    return gunicorn(folder, "-k", "sync")


def thread_worker(folder: Path) -> AbstractContextManager[int]:
    return gunicorn(folder, "-k", "gthread", "--threads", "4")


def gevent_worker(folder: Path) -> AbstractContextManager[int]:
    pytest.importorskip("gevent")
    return gunicorn(folder, "-k", "gevent")


@pytest.mark.parametrize("server", [sync_worker, thread_worker, gevent_worker, gevent])
def test_servers(tmp_path: Path, server: Callable[[Path], AbstractContextManager[int]]) -> None:
    with server(tmp_path) as port:
        assert get(port, "/hello") == b"hello"
        assert get(port, "/stream") == b"0,1,2,3,4,"
        assert get(port, "/file") in (bytes(range(256)) * 40, b"hello")  # gevent has no file wrapper
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            while b"2," not in caller.recv(4096):
                pass
        time.sleep(0.2)
    spans = answered(tmp_path)
    assert set(spans) == {"/hello", "/stream", "/file", "/endless"}
    assert spans["/hello"]["attributes"]["http.response.status_code"] == 200
    assert spans["/hello"]["attributes"]["client.address"] == "127.0.0.1"
    assert spans["/stream"]["attributes"]["aiobs.stream.chunks"] == 5
    assert spans["/endless"]["attributes"]["aiobs.request.disconnected"] is True
    assert not [
        span
        for span in spans.values()
        if "aiobs.truncated" in span["attributes"] or span.get("status", {}).get("code") == 2
    ]


def test_a_worker_that_is_killed_leaves_its_request(tmp_path: Path) -> None:
    with gunicorn(tmp_path, "-k", "sync") as port:
        before = get(port, "/hello")

        def ask() -> None:
            with pytest.raises((OSError, http.client.HTTPException)):
                get(port, "/hang")

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.3)
        os.kill(worker_of(port), signal.SIGKILL)
        asking.join(10)
        assert get(port, "/hello") == before  # by the next worker
    killed = answered(tmp_path)["/hang"]
    assert killed["attributes"]["aiobs.truncated"] is True
    assert killed["attributes"]["aiobs.exit.cause"] == "signal"
    assert killed["attributes"]["aiobs.exit.signal"] == "SIGKILL"
    assert killed["status"]["code"] == 2
    assert 0.2e9 < int(killed["endTimeUnixNano"]) - int(killed["startTimeUnixNano"]) < 5e9


def worker_of(port: int) -> int:
    """The process that answers a request on `port` right now: a gunicorn process without children."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            children = (entry / "task" / entry.name / "children").read_text()
        except OSError:
            continue
        if f"127.0.0.1:{port}".encode() in command and b"aiobs.cli" not in command and not children:
            found.append(int(entry.name))
    (worker,) = found
    return worker
