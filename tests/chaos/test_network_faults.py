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
from dataclasses import dataclass
from pathlib import Path

import pytest

from aiobs import chaos
from aiobs.errors import FaultError, PlanError

from .chaos_scene import eventually, injector_of, watchdogs_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(
        not (shutil.which("nft") and shutil.which("tc")), reason="needs nft and tc (packages nftables, iproute2)"
    ),
]

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
    """Two namespaces, a and b, joined by a cable; an echo server runs in b on ports 7000 and 7001."""

    a: str
    b: str
    server: subprocess.Popen[str]
    address = "10.77.0.2"

    def run(self, where: str, script: str, *arguments: str) -> str:
        command = ["nsenter", f"--net=/run/netns/{where}", sys.executable, "-c", script, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def echo(self, port: int = 7000, timeout_s: float = 0.4) -> str:
        """What a client in a sees: ``ok`` or the name of the error."""
        return self.run(
            self.a,
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


@pytest.fixture
def pair() -> Iterator[Pair]:
    names = [f"aiobs-t{os.getpid()}{it}" for it in "ab"]
    for name in names:
        ip("netns", "add", name)
    try:
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for index, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{index}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        server = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{names[1]}", sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        pair = Pair(*names, server)
        assert pair.echo() == "ok"
        yield pair
        server.kill()
        server.communicate()
    finally:
        for name in names:
            ip("netns", "del", name)


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
        self.process = subprocess.Popen(["nsenter", f"--net=/run/netns/{pair.a}", sys.executable, "-c", script])

    def __enter__(self) -> Chatter:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def test_a_partition_cuts_a_namespace_off_and_heals(pair: Pair) -> None:
    with Chatter(pair), chaos.inject("network.partition", f"netns:{pair.a}") as injection:
        assert pair.echo() == "TimeoutError"
        assert "packets met the rules" in injection.evidence[0]
    assert pair.echo() == "ok"


def test_one_port_is_cut_and_the_other_is_not(pair: Pair) -> None:
    with Chatter(pair), chaos.inject("network.partition", f"netns:{pair.a}", port=7000):
        assert (pair.echo(7000), pair.echo(7001)) == ("TimeoutError", "ok")


@pytest.mark.parametrize("direction", ["in", "out"])
def test_one_way_is_enough_for_tcp(pair: Pair, direction: str) -> None:
    with Chatter(pair), chaos.inject("network.partition", f"netns:{pair.a}", peer=pair.address, direction=direction):
        assert pair.echo() == "TimeoutError"


def test_another_peer_is_not_cut(pair: Pair) -> None:
    with pytest.raises(FaultError, match="not seen to act"):
        chaos.inject("network.partition", f"netns:{pair.a}", peer="10.99.0.0/16", effect_s=0.3)
    assert pair.echo() == "ok"


def test_connections_are_reset_or_refused(pair: Pair) -> None:
    with Chatter(pair):
        with chaos.inject("network.reset", f"netns:{pair.a}", port=7000):
            assert pair.echo(7000) == "ConnectionRefusedError"
            assert pair.echo(7001) == "ok"
        assert pair.echo(7000) == "ok"
        with chaos.inject("network.reset", f"netns:{pair.a}", port=7000, only_new=True):
            assert pair.echo(7000) == "ConnectionRefusedError"


@pytest.mark.parametrize("percent", [2.0, 20.0])
def test_loss_is_what_was_asked(pair: Pair, percent: float) -> None:
    count = 10_000
    server = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{pair.b}", sys.executable, "-c", UDP, "15"], stdout=subprocess.PIPE, text=True
    )
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
    with Chatter(pair), chaos.inject("network.loss", f"netns:{pair.a}", percent=percent, direction="out"):
        pair.run(pair.a, sender)
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
    with Chatter(pair), chaos.inject("network.bandwidth", f"interface:eth0@{pair.a}", rate_mbit=5, queue_s=1) as it:
        seconds = float(pair.run(pair.a, send))
        assert "tbf" in it.evidence[0]
    # The first burst of 64 KiB is free; headers take 4 %.
    rate = (size // 2 - 65536) * 8 / seconds / 1e6
    assert rate == pytest.approx(5, rel=0.1)


def test_dns_is_gone(pair: Pair) -> None:
    ask = """
import socket
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
it.settimeout(0.3)
it.connect(("10.77.0.2", 53))
try:
    it.send(b"?")
    it.recv(1)
except OSError as error:
    print(type(error).__name__)
"""
    asker = subprocess.Popen(
        [
            "nsenter",
            f"--net=/run/netns/{pair.a}",
            sys.executable,
            "-c",
            f"import time\nwhile True:\n exec({ask!r})\n time.sleep(.02)",
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        with chaos.inject("network.dns", f"netns:{pair.a}"):
            assert pair.run(pair.a, ask).strip() in ("TimeoutError", "PermissionError")
        with chaos.inject("network.dns", f"netns:{pair.a}", how="refuse"):
            assert pair.run(pair.a, ask).strip() in ("ConnectionRefusedError", "PermissionError")  # at once, not late
    finally:
        asker.kill()
        asker.wait()


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
with chaos.inject("network.partition", "netns:{pair.a}", duration_s=2):
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
    own = ["nsenter", f"--net=/run/netns/{pair.a}"]
    rules = """table inet theirs {
        chain c {
            type filter hook output priority 0; policy accept;
            tcp dport 9 counter drop
        }
    }"""
    subprocess.run([*own, "nft", "-f", "-"], input=rules, text=True, check=True)

    def theirs() -> str:
        return subprocess.run([*own, "nft", "-a", "list", "ruleset"], capture_output=True, text=True, check=True).stdout

    before = theirs()
    with Chatter(pair), chaos.inject("network.partition", f"netns:{pair.a}"):
        assert theirs() != before
    assert theirs() == before


def test_a_foreign_qdisc_is_refused_and_stays(pair: Pair) -> None:
    own = ["nsenter", f"--net=/run/netns/{pair.a}", "tc"]
    subprocess.run(
        [
            *own,
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
        ],
        check=True,
    )

    def theirs() -> object:
        return json.loads(
            subprocess.run([*own, "-j", "qdisc", "show"], capture_output=True, text=True, check=True).stdout
        )

    before = theirs()
    with pytest.raises(PlanError, match="root qdisc that is not ours"):
        chaos.inject("network.bandwidth", f"interface:eth0@{pair.a}")
    assert theirs() == before


@pytest.mark.parametrize(
    ("fault", "target", "parameters", "said"),
    [
        ("network.partition", "netns:nobody", {}, "no such network namespace"),
        ("network.partition", "netns:{a}", {"port": 70000}, "use 1 to 65535"),
        ("network.partition", "netns:{a}", {"peer": "over there"}, "use an IP address"),
        ("network.loss", "netns:{a}", {"percent": 0}, "use 0.01 to 100"),
        ("network.reset", "netns:{a}", {"direction": "both"}, "use in or out"),
        ("network.bandwidth", "netns:{a}", {}, "needs interface of a target"),
        ("network.bandwidth", "interface:eth9@{a}", {}, "no such interface"),
        ("network.partition", "netns:/proc/self/ns/net", {}, "this host's own namespace"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(
    pair: Pair, fault: str, target: str, parameters: dict[str, object], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        chaos.inject(fault, target.format(a=pair.a), **parameters)
