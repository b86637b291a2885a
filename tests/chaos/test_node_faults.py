"""Nodes that go, and links that come and go, on a testbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aiobs import chaos
from aiobs.chaos.testbed import Testbed
from aiobs.chaos.testbed.commands import running
from aiobs.errors import PlanError

from .chaos_scene import eventually, injector_of, watchdogs_of

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


def test_a_node_that_comes_back_runs_what_it_ran_again_and_no_more(tmp_path: Path) -> None:
    output, folder = tmp_path / "output", tmp_path / "there"
    folder.mkdir()
    with Testbed(2) as bed, open(output, "w") as file:
        script = "import os, sys\nprint(os.getcwd(), os.environ['WHO'], sys.argv[1], flush=True)\n" + SERVER
        env = {**os.environ, "WHO": "me"}
        first = bed["b"].start([sys.executable, "-c", script, "x"], env=env, cwd=folder, stdout=file)
        assert bed["b"].run(["true"]).returncode == 0  # has ended: nobody wants it again
        assert eventually(lambda: asked(bed) == "x")
        for times in (1, 2):
            with chaos.inject("node.loss", "node:b", rejoin=True) as injection:
                assert first.wait(2) == -signal.SIGKILL
                assert asked(bed) == "gone"
                assert "1 commands of node b will be started again" in injection.evidence[0]
            assert eventually(lambda: asked(bed) == "x")
            assert output.read_text() == f"{folder} me x\n" * (times + 1)
        (again,) = running(bed.record, "b")
        assert again.instead_of


@pytest.mark.parametrize("who", ["injector", "everybody"])
def test_a_node_comes_back_though_whoever_took_it_is_dead(experiment, chaos_place: Path, who: str) -> None:
    script = (
        "import sys, time\nfrom aiobs import chaos\n"
        "with chaos.inject(*sys.argv[1:], rejoin=True, duration_s=60):\n    print('held', flush=True); time.sleep(60)"
    )
    with Testbed(2) as bed:
        serving(bed)
        process = experiment("node.loss", "node:b", script)
        injector = injector_of(chaos_place)
        hit = [injector] if who == "injector" else [*watchdogs_of(injector), injector]
        for it in hit:  # neither gets to see that the other is gone
            it.send(signal.SIGSTOP)
        for it in hit:
            it.send(signal.SIGKILL)
        process.kill()
        assert eventually(lambda: not injector.is_alive())
        if who == "everybody":
            assert asked(bed) == "gone"
            (found,) = chaos.recover()
            assert found.residue == ()
        assert eventually(lambda: asked(bed) == "x")
        assert len(running(bed.record, "b")) == 1


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"rejoin": True}, "nothing runs in node b that could be started again"),
        ({"rejoin": True, "kill": False}, "nothing ends that could be started again"),
    ],
)
def test_a_node_with_nothing_to_start_again_is_not_lost_for_nothing(parameters: dict[str, object], said: str) -> None:
    with Testbed(2) as bed:
        with pytest.raises(PlanError, match=said):
            chaos.inject("node.loss", "node:b", **parameters)
        serving(bed)
