"""Connections that are carried late, slowly, or not at all."""

from __future__ import annotations

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
from aiobs.chaos.testbed import Testbed
from aiobs.errors import PlanError

needs_nft = pytest.mark.skipif(not shutil.which("nft"), reason="redirects connections: needs nft (package nftables)")


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
        added = min(round_trips(port, 20)) - min(round_trips(echo, 20))  # a busy machine adds to the others
        assert "connections" in it.evidence[0]
    assert abs(added - delay_s) < max(0.002, 0.05 * delay_s)
    with pytest.raises(ConnectionRefusedError):
        round_trips(port)


def test_a_proxy_is_as_slow_as_was_asked_and_loses_nothing(echo: int) -> None:
    port = free_port()
    with Knocking(port), chaos.inject("network.proxy", f"tcp:127.0.0.1:{echo}", listen=port, rate_mbit=8):
        seconds = min(round_trips(port, 1, 1_000_000)[0] for _ in range(3))
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


TALK = """
import socket, sys, time
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with socket.create_connection((host, port), 5) as it:
    it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(count):
        began = time.monotonic()
        it.sendall(b"x")
        it.recv(1)
        print(time.monotonic() - began, flush=True)
"""
ANSWER = """
import socket, sys, threading
def serve(it):
    it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while content := it.recv(1 << 16):
        it.sendall(content)
    print("over", flush=True)
servers = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
def run(server):
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
threads = [threading.Thread(target=run, args=(it,)) for it in servers]
for it in threads:
    it.start()
print("ready", flush=True)
"""


@pytest.fixture
def bed() -> Iterator[Testbed]:
    """Two nodes; an echo server on b at ports 7000 and 7001."""
    with Testbed(2) as bed:
        server = bed["b"].start([sys.executable, "-c", ANSWER, "7000", "7001"], stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "ready\n"
        yield bed
        server.kill()
        server.communicate()


def trips(bed: Testbed, port: int, count: int = 20) -> list[float]:
    """Seconds of each round trip from a to b."""
    done = bed["a"].run([sys.executable, "-c", TALK, bed["b"].address, str(port), str(count)], timeout=60)
    return [float(line) for line in done.stdout.split()]


@needs_nft
@pytest.mark.parametrize("delay_s", [0.005, 0.05])
def test_connections_to_a_port_are_late_and_others_are_not(bed: Testbed, delay_s: float) -> None:
    knock = f"import socket, time\nwhile True: socket.create_connection(({bed['b'].address!r}, 7000)).close(); time.sleep(.05)"
    knocking = bed["a"].start([sys.executable, "-c", knock])
    usual = min(trips(bed, 7000))
    with chaos.inject("network.latency", "node:a", port=7000, peer="b", delay_s=delay_s):
        late, other = min(trips(bed, 7000)), min(trips(bed, 7001))
    assert abs(late - usual - delay_s) < max(0.002, 0.05 * delay_s)
    assert other < usual + 0.002
    assert min(trips(bed, 7000)) < usual + 0.002
    knocking.kill()
    knocking.wait()


@needs_nft
@pytest.mark.parametrize(("reset_standing", "said"), [(True, "ConnectionResetError"), (False, "fast")])
def test_connections_that_stand_are_spared_or_broken(bed: Testbed, reset_standing: bool, said: str) -> None:
    knock = f"import socket, time\nwhile True: socket.create_connection(({bed['b'].address!r}, 7000)).close(); time.sleep(.05)"
    knocking = bed["a"].start([sys.executable, "-c", knock])
    stands = f"""
import socket, sys, time
def trip(it):
    began = time.monotonic()
    it.sendall(b"x")
    it.recv(1)
    return "slow" if time.monotonic() - began > 0.15 else "fast"
it = socket.create_connection(({bed["b"].address!r}, 7000))
trip(it)
print("ready", flush=True)
sys.stdin.readline()
try:
    print(min(trip(it) for _ in range(5)))
except OSError as error:
    print(type(error).__name__)
print(trip(socket.create_connection(({bed["b"].address!r}, 7000))))
"""
    client = bed["a"].start([sys.executable, "-c", stands], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "ready\n"
    with chaos.inject("network.latency", "node:a", port=7000, delay_s=0.2, reset_standing=reset_standing):
        assert client.communicate("\n", timeout=30)[0].split() == [said, "slow"]
    knocking.kill()
    knocking.wait()


@needs_nft
def test_connections_end_long_after_they_were_closed(bed: Testbed) -> None:
    once = [sys.executable, "-c", TALK, bed["b"].address, "7000", "1"]
    waiter = """
import socket, sys, time
server = socket.create_server(("", 7002))
print("ready", flush=True)
while True:
    it, _ = server.accept()
    content = it.recv(9)
    began = time.monotonic()
    rest = it.recv(9) if content else b"?"
    print(content, rest, time.monotonic() - began, flush=True)
"""
    server = bed["b"].start([sys.executable, "-c", waiter], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    send = f"import socket\nit = socket.create_connection(({bed['b'].address!r}, 7002)); it.sendall(b'x'); it.close()"
    try:
        knocking = bed["a"].start([sys.executable, "-c", f"import time\nwhile True:\n exec({send!r}); time.sleep(.1)"])
        with chaos.inject("network.slow_close", "node:a", port=7002, close_s=0.5):
            held = []
            while not held or held[-1] < 0.4:  # those that stood when it began end at once
                held.append(float(server.stdout.readline().split()[-1]))
        knocking.kill()
        knocking.wait()
        assert held[-1] > 0.45
    finally:
        server.kill()
        server.communicate()
    assert bed["a"].run(once).returncode == 0


@pytest.mark.parametrize(("distribution", "most_s"), [("uniform", 0.045), ("normal", 1), ("pareto", 1)])
def test_jitter_has_the_distribution_that_was_asked(echo: int, distribution: str, most_s: float) -> None:
    port = free_port()
    values = {"listen": port, "delay_s": 0.02, "jitter_s": 0.02, "distribution": distribution, "seed": 5}
    with Knocking(port), chaos.inject("network.proxy", f"tcp:127.0.0.1:{echo}", **values):
        found = round_trips(port, 40)
    late = [it - 0.02 for it in found]
    if distribution == "pareto":  # later only
        assert min(late) >= 0
    else:
        assert min(late) < -0.003
    assert statistics.pstdev(late) > 0.004
    assert min(found) < most_s


@pytest.mark.parametrize(
    ("fault", "target", "parameters", "said"),
    [
        ("network.proxy", "tcp:127.0.0.1:9", {}, "listen=0.*use 1 to 65535"),
        ("network.proxy", "tcp:127.0.0.1:9", {"listen": 9, "jitter_s": 1}, "jitter_s=1.*use 0 to 0"),
        ("network.proxy", "tcp:nowhere.invalid:9", {"listen": 9}, "cannot be resolved"),
        ("network.latency", "pid:1", {"share": 0.5}, "share=0.5: needs a port"),
    ],
)
def test_what_cannot_be_done_is_refused(fault: str, target: str, parameters: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        chaos.inject(fault, target, **parameters)


def test_a_port_that_is_taken_is_said(echo: int) -> None:
    with pytest.raises(Exception, match="address already in use"):
        chaos.inject("network.proxy", f"tcp:127.0.0.1:{echo}", listen=echo)
