"""A testbed has nodes that see each other and nothing else, and ends with whoever made it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs import chaos
from aiobs.chaos.identity import ProcessIdentity, all_processes
from aiobs.chaos.place import Place
from aiobs.chaos.testbed import Testbed
from aiobs.chaos.testbed.record import living_beds, read_bed
from aiobs.chaos.testbed.teardown import sweep
from aiobs.errors import PlanError

from .chaos_scene import eventually, state_of, world

if os.geteuid() != 0:
    try:
        subprocess.run(["unshare", "-Urn", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("neither root nor user namespaces", allow_module_level=True)

OWNER = """
import sys, time
from aiobs.chaos.testbed import Testbed
bed = Testbed(2, name="lab")
it = bed["a"].start(["sh", "-c", "env -i setsid sleep 300 & exec sleep 300"])
print(bed._holder.pid, it.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """A process that has a testbed ``lab`` with programs in it, one of them without environment and session."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_nodes_have_names_addresses_and_a_wire() -> None:
    with Testbed(2) as bed:
        a, b = bed.nodes
        assert a.run(["hostname"]).stdout == "a\n"
        script = "import socket; s = socket.create_server(('', 5000)); c, _ = s.accept(); c.sendall(c.recv(9))"
        server = a.start([sys.executable, "-c", script])
        ask = (
            "import socket, time\n"
            "for _ in range(200):\n"
            "    try: s = socket.create_connection(('a', 5000)); break\n"
            "    except ConnectionRefusedError: time.sleep(0.02)\n"
            "s.sendall(b'hello'); print(s.recv(9).decode(), s.getsockname()[0])"
        )
        assert b.run([sys.executable, "-c", ask], timeout=20).stdout == f"hello {b.address}\n"
        assert server.wait(5) == 0
        route = b.run(["cat", "/proc/net/route"]).stdout.splitlines()
        assert [line.split()[0] for line in route[1:]] == ["eth0"]


def test_where_it_runs_and_what_it_says_are_as_asked(tmp_path: Path) -> None:
    with Testbed(["head"]) as bed:
        done = bed["head"].run(["sh", "-c", "pwd; echo $AIOBS_NODE; exit 7"], cwd=tmp_path)
        assert (done.returncode, done.stdout) == (7, f"{tmp_path}\nhead\n")


def test_nothing_of_it_is_in_the_machines_own_network() -> None:
    before = world()
    with Testbed(2):
        now = world()
        for key in ("links", "rules", "qdiscs", "namespaces", "mounts"):
            assert now[key] == before[key]


def test_faults_find_its_nodes() -> None:
    with Testbed(2, name="lab") as bed:
        victim = bed["b"].start(["sleep", "60"])
        with chaos.inject("process.pause", "node:b@lab"):
            assert state_of(victim.pid) == "T"
        assert state_of(victim.pid) == "S"
        with pytest.raises(PlanError, match="no such node; it has a, b"):
            chaos.inject("noop", "node:z")


def test_a_partition_cuts_one_node_off() -> None:
    beat = "import socket, time\ns = socket.socket(type=socket.SOCK_DGRAM)\nwhile True: s.sendto(b'.', ('a', 9)); time.sleep(0.02)"
    with Testbed(3) as bed:
        bed["b"].start([sys.executable, "-c", beat])
        listen = "import socket; s = socket.create_server(('', 5000))\nwhile True: s.accept()[0].close()"
        bed["a"].start([sys.executable, "-c", listen])
        ask = [sys.executable, "-c", "import socket; socket.create_connection(('a', 5000), 0.5)"]
        assert eventually(lambda: bed["b"].run(ask).returncode == 0)
        with chaos.inject("network.partition", "node:b"):
            assert bed["b"].run(ask).returncode != 0
            assert bed["c"].run(ask).returncode == 0
        assert bed["b"].run(ask).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_it_ends_with_its_owner(owner: subprocess.Popen[str], chaos_place: Path, number: signal.Signals) -> None:
    assert owner.stdout is not None
    _, inner = map(int, owner.stdout.readline().split())
    owner.send_signal(number)
    assert eventually(lambda: not state_of(inner))
    assert eventually(lambda: not list((chaos_place / "testbeds").iterdir()))


def test_its_guard_takes_it_down_when_the_holder_is_killed(owner: subprocess.Popen[str], chaos_place: Path) -> None:
    assert owner.stdout is not None
    holder, inner = map(int, owner.stdout.readline().split())
    os.kill(holder, signal.SIGKILL)
    assert eventually(lambda: not state_of(inner))
    assert eventually(lambda: not list((chaos_place / "testbeds").iterdir()))


def test_what_nobody_looks_after_is_swept(owner: subprocess.Popen[str], chaos_place: Path) -> None:
    assert owner.stdout is not None
    holder, inner = map(int, owner.stdout.readline().split())
    (guard,) = (it.pid for it in all_processes() if it.parent() == holder and _guards(it.pid, holder))
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (guard, holder):
            os.kill(pid, number)
    owner.kill()
    assert eventually(lambda: not state_of(guard) and not state_of(holder))
    assert state_of(inner)
    (found,) = sweep(Place(chaos_place))
    assert (found.name, found.residue) == ("lab", ())
    assert not state_of(inner)
    assert not list((chaos_place / "testbeds").iterdir())


def _guards(pid: int, holder: int) -> bool:
    """Keepers have a network of their own, the guard has the holder's."""
    return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/proc/{holder}/ns/net").st_ino


def test_a_name_is_taken_once() -> None:
    with Testbed(1, name="lab") as bed:
        with pytest.raises(PlanError, match="a testbed of that name is up"):
            Testbed(1, name="lab")
        assert ProcessIdentity.of(bed.record.switch.keeper).is_alive()


@pytest.mark.parametrize("nodes", [0, 27, [], ["a", "a"], ["A"], ["localhost"]])
def test_bad_nodes_are_refused(nodes: object, chaos_place: Path) -> None:
    with pytest.raises(PlanError, match="nodes="):
        Testbed(nodes)  # type: ignore[arg-type]
    assert not list(living_beds(Place(chaos_place)))
    assert read_bed(chaos_place) is None
