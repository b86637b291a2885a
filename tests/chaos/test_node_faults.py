"""Nodes that go, and links that come and go, on a testbed."""

from __future__ import annotations

import signal
import subprocess
import sys

from aiobs import chaos
from aiobs.chaos.testbed import Testbed

from .chaos_scene import eventually

SERVER = """
import socket
server = socket.create_server(("", 5000))
while True:
    connection, _ = server.accept()
    connection.sendall(b"x")
    connection.close()
"""
ASK = """
import socket
try:
    with socket.create_connection(("b", 5000), 0.3) as it:
        print(it.recv(1).decode() or "closed")
except OSError as error:
    print("refused" if isinstance(error, ConnectionRefusedError) else "gone")
"""


def asked(bed: Testbed) -> str:
    said: str = bed["a"].run([sys.executable, "-c", ASK]).stdout.strip()
    return said


def serving(bed: Testbed) -> subprocess.Popen[str]:
    server: subprocess.Popen[str] = bed["b"].start([sys.executable, "-c", SERVER])
    assert eventually(lambda: asked(bed) == "x")
    return server


def test_a_lost_node_is_gone_with_its_processes_and_its_link_comes_back() -> None:
    with Testbed(2) as bed:
        server = serving(bed)
        with chaos.inject("node.loss", "node:b"):
            assert server.wait(2) == -signal.SIGKILL
            assert asked(bed) == "gone"
        assert asked(bed) == "refused"  # the node is there again, and nobody has started anything on it
        again = serving(bed)
        again.kill()
        again.wait()


def test_a_cut_node_keeps_its_processes() -> None:
    with Testbed(2) as bed:
        server = serving(bed)
        with chaos.inject("node.loss", "node:b", kill=False):
            assert asked(bed) == "gone"
            assert server.poll() is None
        assert eventually(lambda: asked(bed) == "x")
        server.kill()
        server.wait()


def test_a_link_that_flaps_is_up_in_the_end() -> None:
    with Testbed(2) as bed:
        server = serving(bed)
        with chaos.inject("network.flap", "node:b", down_s=0.3, up_s=0.3) as injection:
            seen: set[str] = set()
            assert eventually(lambda: {"x", "gone"} <= seen or seen.add(asked(bed)), 10)
            assert "taken down" in injection.evidence[1]
        assert eventually(lambda: asked(bed) == "x")
        server.kill()
        server.wait()


def test_a_command_runs_in_every_node_and_the_worst_code_is_told() -> None:
    script = "print('{node}', '{index}', '{address}', '{nodes}', flush=True); raise SystemExit({index})"
    done = subprocess.run(
        [sys.executable, "-m", "aiobs.cli", "chaos", "testbed", "up", "3", "--", sys.executable, "-c", script],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    lines = sorted(line.split() for line in done.stdout.splitlines())
    assert [(line[0], line[1], line[3]) for line in lines] == [("a", "0", "3"), ("b", "1", "3"), ("c", "2", "3")]
    assert len({line[2] for line in lines}) == 3
