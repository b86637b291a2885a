"""A server's requests are points: all of them, or test traffic alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs import chaos
from aiobs.chaos.points.scope import read_key, sign

from .chaos_scene import eventually

pytest.importorskip("uvicorn", reason="needs uvicorn")

APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Pid and port of a recorded server that answers at once."""
    (tmp_path / "served.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as it:
        port = it.getsockname()[1]
    script = (
        f"import aiobs; aiobs.init(agent='off'); import uvicorn; uvicorn.run('served:app', port={port}, lifespan='off')"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.DEVNULL)
    assert eventually(lambda: asked(port) is not None, 20)
    yield process.pid, port
    process.terminate()
    process.wait()


def asked(port: int, **headers: str) -> tuple[int, float] | None:
    """Status and seconds of one request, None where nobody listens."""
    began = time.monotonic()
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, time.monotonic() - began
    except urllib.error.HTTPError as error:
        return error.code, time.monotonic() - began
    except OSError:
        return None


class Asking:
    """Somebody who asks all the time, so that a point is reached."""

    def __init__(self, port: int, baggage: str = "") -> None:
        headers = {"baggage": baggage} if baggage else {}
        script = f"""
import time, urllib.request
while True:
    try:
        urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:{port}/", headers={headers!r}), timeout=2).read()
    except OSError:
        pass
    time.sleep(0.05)
"""
        self.process = subprocess.Popen([sys.executable, "-c", script])

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def test_requests_are_late_without_holding_up_the_loop(server: tuple[int, int]) -> None:
    pid, port = server
    with Asking(port), chaos.inject("point.latency", f"point:serving.request@pid:{pid}", delay_s=0.3):
        found = asked(port)
        assert found is not None
        assert 0.3 <= found[1] < 0.6
    found = asked(port)
    assert found is not None
    assert found[1] < 0.3


def test_only_signed_requests_fail(server: tuple[int, int], tmp_path: Path) -> None:
    pid, port = server
    key = tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef")
    os.chmod(key, 0o600)
    baggage = f"aiobs.chaos={sign(read_key(f'file:{key}'), 'run-7', 60, 1.0)}"
    with (
        Asking(port, baggage),
        chaos.inject("point.error", f"point:serving.request@pid:{pid}", only="signed", run="run-7", key=f"file:{key}"),
    ):
        signed, plain = asked(port, baggage=baggage), asked(port)
        assert signed is not None
        assert plain is not None
        assert (signed[0], plain[0]) == (500, 200)
