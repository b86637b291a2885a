"""Connections that are carried late, slowly, or not at all."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from aiobs import chaos
from aiobs.errors import PlanError

from .chaos_scene import eventually

root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft"), reason="redirects connections: needs root and nft"
)


@pytest.fixture
def echo() -> Iterator[int]:
    """An echo server on loopback; its port."""
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    server.settimeout(0.1)

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while content := connection.recv(1 << 16):
                    connection.sendall(content)
            except OSError:
                return

    def run() -> None:
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            connection.settimeout(None)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=run)
    thread.start()
    yield server.getsockname()[1]
    stop.set()
    thread.join()
    server.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as it:
        return int(it.getsockname()[1])


def round_trips(port: int, count: int = 10, size: int = 1) -> list[float]:
    """Seconds of each round trip on one connection."""
    found = []
    with socket.create_connection(("127.0.0.1", port), 5) as it:
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            began, left = time.monotonic(), size
            it.sendall(b"x" * size)
            while left:
                left -= len(it.recv(1 << 16))
            found.append(time.monotonic() - began)
    return found


class Knocking:
    """Somebody who connects all the time, so that a fault can be seen to act."""

    def __init__(self, port: int) -> None:
        script = f"""
import socket, time
while True:
    try:
        with socket.create_connection(("127.0.0.1", {port}), 0.5) as it:
            it.sendall(b"x")
            it.recv(1)
    except OSError:
        pass
    time.sleep(0.05)
"""
        self.process = subprocess.Popen([sys.executable, "-c", script])

    def __enter__(self) -> Knocking:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("delay_s", [0.005, 0.05])
def test_a_proxy_adds_the_latency_that_was_asked(echo: int, delay_s: float) -> None:
    port = free_port()
    with Knocking(port), chaos.inject("network.proxy", f"tcp:127.0.0.1:{echo}", listen=port, delay_s=delay_s) as it:
        added = statistics.median(round_trips(port)) - statistics.median(round_trips(echo))
        assert "connections" in it.evidence[0]
    assert abs(added - delay_s) < max(0.002, 0.05 * delay_s)
    with pytest.raises(ConnectionRefusedError):
        round_trips(port)


def test_a_proxy_is_as_slow_as_was_asked_and_loses_nothing(echo: int) -> None:
    port = free_port()
    with Knocking(port), chaos.inject("network.proxy", f"tcp:127.0.0.1:{echo}", listen=port, rate_mbit=8):
        (seconds,) = round_trips(port, 1, 1_000_000)
    assert 8 / seconds == pytest.approx(8, rel=0.05)


def test_a_proxy_breaks_connections_or_swallows_them(echo: int) -> None:
    port = free_port()
    with Knocking(port), chaos.inject("network.proxy", f"tcp:127.0.0.1:{echo}", listen=port, reset_after_bytes=0):
        with pytest.raises(ConnectionResetError):
            round_trips(port, 1)
    with Knocking(port), chaos.inject("network.proxy", f"tcp:127.0.0.1:{echo}", listen=port, blackhole=True):
        with socket.create_connection(("127.0.0.1", port), 1) as it:
            it.settimeout(0.3)
            it.sendall(b"x")
            with pytest.raises(TimeoutError):
                it.recv(1)


def test_a_share_of_the_connections_is_hit(echo: int) -> None:
    port = free_port()
    with (
        Knocking(port),
        chaos.inject("network.proxy", f"tcp:127.0.0.1:{echo}", listen=port, delay_s=0.05, share=0.5, seed=3),
    ):
        slow = sum(round_trips(port, 1)[0] > 0.04 for _ in range(40))
    assert 10 <= slow <= 30


@root
@pytest.mark.parametrize("delay_s", [0.005, 0.05])
def test_connections_to_a_port_are_late_and_others_are_not(echo: int, delay_s: float) -> None:
    script = """
import socket, statistics, time
def trips(port):
    found = []
    with socket.create_connection(("127.0.0.1", port), 5) as it:
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(10):
            began = time.monotonic()
            it.sendall(b"x")
            it.recv(1)
            found.append(time.monotonic() - began)
    return statistics.median(found)
"""
    with Knocking(echo) as knocking:
        usual = statistics.median(round_trips(echo))
        with chaos.inject("network.latency", f"pid:{knocking.process.pid}", port=echo, delay_s=delay_s):
            late = subprocess.run(
                [sys.executable, "-c", script + f"print(trips({echo}))"], capture_output=True, text=True, check=True
            )
        assert abs(float(late.stdout) - usual - delay_s) < max(0.002, 0.05 * delay_s)
        assert eventually(lambda: statistics.median(round_trips(echo)) < usual + 0.002)


@pytest.mark.parametrize(
    ("fault", "target", "parameters", "said"),
    [
        ("network.proxy", "tcp:127.0.0.1:9", {}, "listen=0.*use 1 to 65535"),
        ("network.proxy", "tcp:127.0.0.1:9", {"listen": 9, "jitter_s": 1}, "jitter_s=1.*use 0 to 0"),
        ("network.proxy", "tcp:nowhere.invalid:9", {"listen": 9}, "cannot be resolved"),
        ("network.latency", "pid:1", {}, "port=0.*whose connections are delayed"),
    ],
)
def test_what_cannot_be_done_is_refused(fault: str, target: str, parameters: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        chaos.inject(fault, target, **parameters)


def test_a_port_that_is_taken_is_said(echo: int) -> None:
    with pytest.raises(Exception, match="address already in use"):
        chaos.inject("network.proxy", f"tcp:127.0.0.1:{echo}", listen=echo)
