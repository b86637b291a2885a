"""Faults of the network, on packets between two namespaces that the test makes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from aiobs import chaos
from aiobs.chaos.netem import has_netem
from aiobs.chaos.testbed import Testbed
from aiobs.errors import FaultError, PlanError

from .chaos_scene import eventually, injector_of, watchdogs_of

pytestmark = pytest.mark.skipif(
    not (shutil.which("nft") and shutil.which("tc")), reason="needs nft and tc (packages nftables, iproute2)"
)

ECHO = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", 7000), await asyncio.start_server(serve, "0.0.0.0", 7001):
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""
UDP = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
server.bind(("0.0.0.0", 7002))
server.settimeout(float(sys.argv[1]))
print("ready", flush=True)
count = 0
try:
    while True:
        server.recv(100)
        count += 1
        server.settimeout(1.0)
except TimeoutError:
    print(count, flush=True)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Pair:
    """Two networks, a and b, joined by a cable; an echo server runs in b on ports 7000 and 7001.

    Attributes:
        inside: what comes before a command line that runs in each of them.
        address: of b.
        path: the file that holds the namespace of a.
        server: how faults call b.
    """

    inside: dict[str, list[str]]
    address: str
    path: str
    server: str

    @property
    def target(self) -> str:
        """How faults call a."""
        return f"netns:{self.path}" if self.path.startswith("/run/netns/") else "node:a"

    @property
    def link(self) -> str:
        """How they call its interface."""
        return f"interface:eth0@{self.path}"

    def start(self, where: str, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Run a program of Python there."""
        command = [*self.inside[where], sys.executable, "-c", script, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def run(self, where: str, script: str, *arguments: str) -> str:
        """The same to its end, and what it says."""
        command = [*self.inside[where], sys.executable, "-c", script, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def tool(self, *words: str, told: str = "") -> str:
        """What a tool says in a."""
        command = [*self.inside["a"], *words]
        return subprocess.run(command, input=told, check=True, capture_output=True, text=True).stdout

    def echo(self, port: int = 7000, timeout_s: float = 0.4) -> str:
        """What a client in a sees: ``ok`` or the name of the error."""
        return self.run(
            "a",
            f"""
import socket
try:
    with socket.create_connection(("{self.address}", {port}), {timeout_s}) as it:
        it.sendall(b"x")
        print("ok" if it.recv(1) == b"x" else "closed")
except OSError as error:
    print(type(error).__name__)
""",
        ).strip()


@contextmanager
def named() -> Iterator[Pair]:
    """Two network namespaces with names, which only root can make."""
    names = [f"aiobs-t{os.getpid()}{it}" for it in "ab"]
    for name in names:
        ip("netns", "add", name)
    try:
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for index, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{index}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        inside = {key: ["nsenter", f"--net=/run/netns/{name}"] for key, name in zip("ab", names, strict=True)}
        yield Pair(inside, "10.77.0.2", f"/run/netns/{names[0]}", f"netns:{names[1]}")
    finally:
        for name in names:
            ip("netns", "del", name)


@contextmanager
def nodes() -> Iterator[Pair]:
    """Two nodes of a testbed, which any user can have."""
    with Testbed(2) as bed:
        inside = {it.name: it.command([]) for it in bed.nodes}
        yield Pair(inside, bed["b"].address, bed["a"].namespace, "node:b")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with named() if os.geteuid() == 0 else nodes() as pair:
        server = pair.start("b", ECHO)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        assert pair.echo() == "ok"
        yield pair
        server.kill()
        server.communicate()


class Chatter:
    """Somebody in a who talks to b all the time, so that a fault can be seen to act."""

    def __init__(self, pair: Pair, port: int = 7000) -> None:
        script = f"""
import socket, time
while True:
    try:
        with socket.create_connection(("{pair.address}", {port}), 0.2) as it:
            it.sendall(b"x")
            it.recv(1)
    except OSError:
        pass
    time.sleep(0.02)
"""
        self.process = pair.start("a", script)

    def __enter__(self) -> Chatter:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Standing:
    """A connection from a to the echo server that stands all the time."""

    SCRIPT = """
import socket, sys
it = socket.create_connection((sys.argv[1], 7000))
print("ready", flush=True)
size = int(sys.argv[2])
for line in sys.stdin:
    it.settimeout(0.5)
    try:
        it.sendall(b"x" * size)
        left = size
        while left:
            left -= len(it.recv(1 << 16))
        print("ok", flush=True)
    except TimeoutError:
        print("silence", flush=True)
"""

    def __init__(self, pair: Pair, size: int = 1) -> None:
        command = [*pair.inside["a"], sys.executable, "-c", self.SCRIPT, pair.address, str(size)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._heard() == "ready"

    def _heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def talks(self) -> bool:
        """Whether something sent over it comes back within half a second."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._heard() == "ok"

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def test_a_partition_cuts_a_namespace_off_and_heals(pair: Pair) -> None:
    with Chatter(pair), chaos.inject("network.partition", pair.target) as injection:
        assert pair.echo() == "TimeoutError"
        assert "packets met the rules" in injection.evidence[0]
    assert pair.echo() == "ok"


def test_one_port_is_cut_and_the_other_is_not(pair: Pair) -> None:
    with Chatter(pair), chaos.inject("network.partition", pair.target, port=7000):
        assert (pair.echo(7000), pair.echo(7001)) == ("TimeoutError", "ok")


@pytest.mark.parametrize("direction", ["in", "out"])
def test_one_way_is_enough_for_tcp(pair: Pair, direction: str) -> None:
    with Chatter(pair), chaos.inject("network.partition", pair.target, peer=pair.address, direction=direction):
        assert pair.echo() == "TimeoutError"


def test_another_peer_is_not_cut(pair: Pair) -> None:
    with pytest.raises(FaultError, match="not seen to act"):
        chaos.inject("network.partition", pair.target, peer="10.99.0.0/16", effect_s=0.3)
    assert pair.echo() == "ok"


def test_connections_are_reset_or_refused(pair: Pair) -> None:
    with Chatter(pair):
        with chaos.inject("network.reset", pair.target, port=7000):
            assert pair.echo(7000) == "ConnectionRefusedError"
            assert pair.echo(7001) == "ok"
        assert pair.echo(7000) == "ok"
        with chaos.inject("network.reset", pair.target, port=7000, only_new=True):
            assert pair.echo(7000) == "ConnectionRefusedError"


@pytest.mark.parametrize(
    ("how", "said"), [("reset", "ConnectionRefusedError"), ("unreachable", "OSError"), ("prohibited", "OSError")]
)
def test_new_connections_fail_at_once_and_those_that_stand_go_on(pair: Pair, how: str, said: str) -> None:
    with Standing(pair) as standing, Chatter(pair):
        with chaos.inject("network.refuse", pair.target, port=7000, how=how):
            assert pair.echo(7000, timeout_s=5) == said
            assert pair.echo(7001) == "ok"
            assert standing.talks()
        assert pair.echo(7000) == "ok"


def test_connections_to_the_unit_are_refused(pair: Pair) -> None:
    with Chatter(pair), chaos.inject("network.refuse", pair.server, port=7000, direction="in"):
        assert pair.echo(7000, timeout_s=5) == "ConnectionRefusedError"


@pytest.mark.parametrize("size", [1, 100_000])
def test_connections_open_and_nothing_arrives(pair: Pair, size: int) -> None:
    with Standing(pair, size) as standing, Chatter(pair):
        assert standing.talks()
        with chaos.inject("network.blackhole", pair.target, port=7000, direction="out") as injection:
            assert pair.run("a", f"import socket; socket.create_connection(('{pair.address}', 7000), 5)") == ""
            assert pair.echo(7000) == "TimeoutError", injection
            assert not standing.talks()
        assert pair.echo(7000) == "ok"
        assert eventually(standing.talks)


def test_what_needs_netem_says_so_where_there_is_none(pair: Pair) -> None:
    for kind, values in (("network.netem", {"loss_percent": 1}), ("network.latency", {})):
        if has_netem():
            with Chatter(pair), chaos.inject(kind, pair.link, **values) as injection:
                assert "through netem" in injection.evidence[0]
        else:
            with pytest.raises(PlanError, match="this kernel has no netem"):
                chaos.inject(kind, pair.link, **values)


@pytest.mark.parametrize(
    ("kind", "values", "spec"),
    [
        ("network.latency", {"delay_s": 0.05, "jitter_s": 0.01}, "netem delay 50ms 10ms"),
        (
            "network.netem",
            {"delay_s": 0.02, "jitter_s": 0.005, "distribution": "normal", "reorder_percent": 5},
            "netem delay 20ms 5ms distribution normal reorder 5%",
        ),
        ("network.netem", {"loss_percent": 1.5, "loss_correlation_percent": 25}, "netem loss 1.5% 25%"),
        ("network.netem", {"duplicate_percent": 2, "corrupt_percent": 0.1}, "netem duplicate 2% corrupt 0.1%"),
    ],
)
def test_what_netem_is_told(pair: Pair, kind: str, values: dict[str, object], spec: str) -> None:
    plan = chaos.build_plan({"fault": kind, "target": pair.link, "parameters": values})
    (operation,) = plan.operations(plan.units(), "")
    assert operation.describe().startswith(f"tc qdisc add dev eth0 root handle a10b: {spec} in ")


@pytest.mark.parametrize("percent", [2.0, 20.0])
def test_loss_is_what_was_asked(pair: Pair, percent: float) -> None:
    count = 10_000
    server = pair.start("b", UDP, "15")
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    sender = f"""
import socket, time
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sent = 0
while sent < {count}:
    try:
        it.sendto(b"x", ("{pair.address}", 7002))
    except PermissionError:  # what the kernel says of a packet that a rule drops on its way out
        pass
    sent += 1
    if sent % 50 == 0:
        time.sleep(0.002)
"""
    with Chatter(pair), chaos.inject("network.loss", pair.target, percent=percent, direction="out"):
        pair.run("a", sender)
    arrived = int(server.communicate()[0])
    # Three standard deviations of 10,000 draws at 20 % are 1.2 points; the promise is one beyond chance.
    assert abs(100 * (1 - arrived / count) - percent) < 1 + 0.2


def test_bandwidth_is_what_was_asked(pair: Pair) -> None:
    size = 2_500_000  # 20 Mbit
    send = f"""
import socket, time
with socket.create_connection(("{pair.address}", 7000)) as it:
    begin = time.monotonic()
    it.sendall(b"x" * {size // 2})
    left = {size // 2}
    while left:
        left -= len(it.recv(1 << 16))
    print(time.monotonic() - begin)
"""
    with Chatter(pair), chaos.inject("network.bandwidth", pair.link, rate_mbit=5, queue_s=1) as it:
        seconds = float(pair.run("a", send))
        assert "tbf" in it.evidence[0]
    # The first burst of 64 KiB is free; headers take 4 %.
    rate = (size // 2 - 65536) * 8 / seconds / 1e6
    assert rate == pytest.approx(5, rel=0.1)


def test_dns_is_gone(pair: Pair) -> None:
    ask = f"""
import socket
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
it.settimeout(0.3)
it.connect(("{pair.address}", 53))
try:
    it.send(b"?")
    it.recv(1)
except OSError as error:
    print(type(error).__name__)
"""
    asker = pair.start("a", f"import time\nwhile True:\n exec({ask!r})\n time.sleep(.02)")
    try:
        with chaos.inject("network.dns", pair.target):
            assert pair.run("a", ask).strip() in ("TimeoutError", "PermissionError")
        with chaos.inject("network.dns", pair.target, how="refuse"):
            assert pair.run("a", ask).strip() in ("ConnectionRefusedError", "PermissionError")  # at once, not late
    finally:
        asker.kill()
        asker.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="changes this host's own packets: needs root")
def test_a_process_in_our_own_namespace_is_cut_by_its_cgroup_and_nobody_else() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    client = f"""
import socket, time
while True:
    try:
        with socket.create_connection(("127.0.0.1", {port}), 0.2):
            print("ok", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
    time.sleep(0.02)
"""
    victim = subprocess.Popen([sys.executable, "-c", client], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    try:
        assert victim.stdout.readline() == "ok\n"
        with chaos.inject("network.partition", f"pid:{victim.pid}", direction="out"):
            assert eventually(lambda: victim.stdout is not None and victim.stdout.readline() == "TimeoutError\n")
            socket.create_connection(("127.0.0.1", port), 1).close()
        assert eventually(lambda: victim.stdout is not None and victim.stdout.readline() == "ok\n")
    finally:
        victim.kill()
        victim.communicate()
        server.close()


def test_the_kernel_ends_a_partition_when_everybody_of_ours_is_dead(pair: Pair, chaos_place: Path) -> None:
    script = f"""
import time
from aiobs import chaos
with chaos.inject("network.partition", "{pair.target}", duration_s=2):
    print("held", flush=True)
    time.sleep(60)
"""
    with Chatter(pair):
        experiment = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert experiment.stdout is not None
        assert experiment.stdout.readline() == "held\n"
        began = time.monotonic()
        injector = injector_of(chaos_place)
        (watchdog,) = watchdogs_of(injector)
        watchdog.send(signal.SIGSTOP)
        injector.send(signal.SIGKILL)
        watchdog.send(signal.SIGKILL)
        experiment.kill()
        experiment.communicate()
        assert pair.echo(timeout_s=0.2) == "TimeoutError"
        assert eventually(lambda: pair.echo(timeout_s=0.2) == "ok", 10)
        assert time.monotonic() - began < 2 + 1 + 0.5  # how often the test looks
    assert eventually(lambda: not injector.is_alive())
    (found,) = chaos.recover()  # takes away the empty table
    assert found.residue == ()


def test_foreign_rules_stay_byte_for_byte(pair: Pair) -> None:
    rules = """table inet theirs {
        chain c {
            type filter hook output priority 0; policy accept;
            tcp dport 9 counter drop
        }
    }"""
    pair.tool("nft", "-f", "-", told=rules)

    def theirs() -> str:
        return pair.tool("nft", "-a", "list", "ruleset")

    before = theirs()
    with Chatter(pair), chaos.inject("network.partition", pair.target):
        assert theirs() != before
    assert theirs() == before


def test_what_others_add_during_the_fault_survives_its_end(pair: Pair) -> None:
    rules = "table inet theirs {\n chain c {\n type filter hook output priority 0; policy accept;\n tcp dport 9 counter drop\n }\n}"
    with Chatter(pair):
        with chaos.inject("network.partition", pair.target):
            pair.tool("nft", "-f", "-", told=rules)
            theirs = pair.tool("nft", "-a", "list", "table", "inet", "theirs")
        assert pair.tool("nft", "-a", "list", "ruleset") == theirs
        with chaos.inject("network.bandwidth", pair.link, rate_mbit=100):
            for interface in ("lo", "eth0"):  # beside ours, and instead of it
                words = f"tc qdisc replace dev {interface} root handle 7: tbf rate 1gbit burst 64kb latency 50ms"
                pair.tool(*words.split())
            theirs = pair.tool("tc", "qdisc", "show")
            assert theirs.count("qdisc tbf 7: ") == 2
        assert pair.tool("tc", "qdisc", "show") == theirs


def test_a_foreign_qdisc_is_refused_and_stays(pair: Pair) -> None:
    pair.tool(
        *[
            "tc",
            "qdisc",
            "add",
            "dev",
            "eth0",
            "root",
            "handle",
            "1:",
            "tbf",
            "rate",
            "1gbit",
            "burst",
            "64kb",
            "latency",
            "50ms",
        ]
    )

    def theirs() -> object:
        return json.loads(pair.tool("tc", "-j", "qdisc", "show"))

    before = theirs()
    with pytest.raises(PlanError, match="root qdisc that is not ours"):
        chaos.inject("network.bandwidth", pair.link)
    assert theirs() == before


@pytest.mark.parametrize(
    ("fault", "target", "parameters", "said"),
    [
        ("network.partition", "netns:nobody", {}, "no such network namespace"),
        ("network.partition", "netns:{path}", {"port": 70000}, "use 1 to 65535"),
        ("network.partition", "netns:{path}", {"peer": "over there"}, "use an IP address"),
        ("network.loss", "netns:{path}", {"percent": 0}, "use 0.01 to 100"),
        ("network.reset", "netns:{path}", {"direction": "both"}, "use in or out"),
        ("network.refuse", "netns:{path}", {"how": "no"}, "use one of reset, unreachable, prohibited"),
        ("network.netem", "interface:eth0@{path}", {}, "say what is to happen"),
        ("network.netem", "interface:eth0@{path}", {"reorder_percent": 5}, "needs a delay_s"),
        ("network.partition", "interface:eth0@{path}", {"peer": "b"}, "names are those of a testbed's nodes"),
        ("network.bandwidth", "netns:{path}", {}, "needs interface of a target"),
        ("network.bandwidth", "interface:eth9@{path}", {}, "no such interface"),
        ("network.partition", "netns:/proc/self/ns/net", {}, "this host's own namespace"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(
    pair: Pair, fault: str, target: str, parameters: dict[str, object], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        chaos.inject(fault, target.format(path=pair.path), **parameters)
