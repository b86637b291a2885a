"""Grudges: who may not talk to whom, between nodes of a testbed."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from random import Random

import pytest

from aiobs import chaos
from aiobs.chaos.grudges import SHAPES, cuts_of
from aiobs.chaos.testbed import Testbed
from aiobs.errors import FaultError, PlanError

from .chaos_scene import eventually, injector_of, watchdogs_of

NAMES = ["a", "b", "c", "d", "e"]
needs_nft = pytest.mark.skipif(not shutil.which("nft"), reason="needs nft (package nftables)")


def seen(shape: str, names: Sequence[str] = NAMES, node: str = "") -> dict[str, set[str]]:
    """Whom each node still hears."""
    cuts = cuts_of(shape, list(names), node, Random(1))
    return {hearer: {it for it in names if it != hearer and (it, hearer) not in cuts} for hearer in names}


def test_shapes() -> None:
    assert sorted(len(it) for it in seen("majority-minority").values()) == [1, 1, 2, 2, 2]
    assert sorted(len(it) for it in seen("halves", NAMES[:4]).values()) == [1, 1, 1, 1]
    assert seen("isolate", node="c") == {it: set(NAMES) - {it, "c"} if it != "c" else set() for it in NAMES}
    assert seen("one-way", ["a", "b", "c"], "b") == {"a": {"c"}, "b": {"a", "c"}, "c": {"a"}}
    assert seen("ring", NAMES) == {"a": {"b", "e"}, "b": {"a", "c"}, "c": {"b", "d"}, "d": {"c", "e"}, "e": {"d", "a"}}
    bridged = seen("bridge", node="c")
    assert bridged["c"] == set("abde")
    assert sorted(len(it) for key, it in bridged.items() if key != "c") == [2, 2, 2, 2]
    assert seen("a,b|c;d>e", NAMES)["e"] == {"a", "b", "c"}
    assert seen("a,b|c", NAMES)["c"] == {"d", "e"}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_seed_makes_the_same_enemies(shape: str) -> None:
    drawn = {str(cuts_of(shape, NAMES, "", Random(seed))) for seed in (1, 1, 2, 3, 4, 5, 6, 7)}
    again = {str(cuts_of(shape, NAMES, "", Random(seed))) for seed in (1, 1, 2, 3, 4, 5, 6, 7)}
    assert drawn == again
    assert (len(drawn) > 1) == (shape != "ring")


@pytest.mark.parametrize(
    ("shape", "node", "said"),
    [
        ("ring", "", "needs 4 nodes, and there are 3"),
        ("a,b|z", "", "there is no node z; there are a, b, c"),
        ("a,b", "", "use majority-minority"),
        ("a,|b", "", "a group is empty"),
        ("a,b|b", "", "b stands on both sides"),
        ("isolate", "z", "is not there; there are a, b, c"),
        ("a|b", "c", "says already who"),
        ("random", "c", "nobody stands apart"),
    ],
)
def test_grudges_that_cannot_be_are_refused(shape: str, node: str, said: str) -> None:
    def refused() -> None:
        chaos.build_fault("network.grudge", {"shape": shape, "node": node})
        cuts_of(shape, ["a", "b", "c"], node, Random(1))

    with pytest.raises(PlanError, match=said):
        refused()


TALK = """
import os, socket, sys, threading, time
own, others = os.environ["AIOBS_NODE"], sys.argv[1:]
heard = {}
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
wire.bind(("", 6000))
def listen():
    while True:
        heard[wire.recv(9).decode()] = time.monotonic()
threading.Thread(target=listen, daemon=True).start()
for line in iter(lambda: time.sleep(0.05), 1):
    for other in others:
        wire.sendto(own.encode(), (other, 6000))
    now = time.monotonic()
    with open(os.environ["HEARD"] + "/" + own + ".new", "w") as file:
        file.write(" ".join(sorted(name for name, at in heard.items() if now - at < 0.4)))
    os.replace(file.name, file.name.removesuffix(".new"))
"""


@pytest.fixture
def talking(tmp_path) -> Iterator[tuple[Testbed, object]]:
    """Four nodes that tell each other all the time that they are there; whom each has heard of late is in files."""
    with Testbed(4, name="lab") as bed:
        names = [it.name for it in bed.nodes]
        for node in bed.nodes:
            others = [it for it in names if it != node.name]
            node.start([sys.executable, "-c", TALK, *others], env={"HEARD": str(tmp_path), "PATH": "/usr/bin:/bin"})

        def heard() -> dict[str, str]:
            return {it: (tmp_path / it).read_text() if (tmp_path / it).exists() else "" for it in names}

        assert eventually(lambda: heard() == EVERYBODY)
        yield bed, heard


EVERYBODY = {"a": "b c d", "b": "a c d", "c": "a b d", "d": "a b c"}


@needs_nft
@pytest.mark.parametrize(
    ("shape", "node", "left"),
    [
        ("ring", "", {"a": "b d", "b": "a c", "c": "b d", "d": "a c"}),
        ("one-way", "b", {"a": "c d", "b": "a c d", "c": "a d", "d": "a c"}),
        ("a,b|c;d>a", "", {"a": "b", "b": "a d", "c": "d", "d": "a b c"}),
    ],
)
def test_a_grudge_cuts_these_ways_and_no_others_and_heals(talking, shape: str, node: str, left: object) -> None:
    _, heard = talking
    with chaos.inject("network.grudge", "testbed:lab", shape=shape, node=node) as injection:
        assert eventually(lambda: heard() == left), heard()
        cut = {f"{b}>{a}" for a in left for b in EVERYBODY[a].split() if b not in left[a].split()}
        assert {it.split()[0] for it in injection.evidence[0].removeprefix("dropped: ").split(", ")} == cut
    assert eventually(lambda: heard() == EVERYBODY), heard()


@needs_nft
def test_a_direction_in_which_nobody_speaks_is_proved_too() -> None:
    with Testbed(3, name="lab") as bed:
        shout = "import socket, time\nit = socket.socket(type=socket.SOCK_DGRAM)\nwhile True: it.sendto(b'.', ('a', 9)); time.sleep(.02)"
        bed["b"].start([sys.executable, "-c", shout])
        with chaos.inject("network.grudge", "testbed:lab", shape="isolate", node="a") as injection:
            assert "c>a 0 packets and our probe" in injection.evidence[0]


@needs_nft
def test_the_kernel_ends_a_grudge_when_everybody_of_ours_is_dead(talking, experiment, chaos_place) -> None:
    _, heard = talking
    script = (
        "import sys, time\nfrom aiobs import chaos\n"
        "with chaos.inject(*sys.argv[1:], duration_s=1):\n    print('held', flush=True); time.sleep(60)"
    )
    process = experiment("network.grudge", "testbed:lab", script)
    injector = injector_of(chaos_place)
    (watchdog,) = watchdogs_of(injector)
    for it in (watchdog, injector):  # neither gets to see that the other is gone
        it.send(signal.SIGSTOP)
    for it in (watchdog, injector):
        it.send(signal.SIGKILL)
    process.kill()
    assert eventually(lambda: heard() == EVERYBODY), heard()
    assert eventually(lambda: not injector.is_alive())
    (found,) = chaos.recover()  # takes away the empty tables
    assert found.residue == ()


@needs_nft
def test_a_grudge_nobody_notices_proves_nothing() -> None:
    with Testbed(3, name="lab"):
        with pytest.raises(FaultError, match="not seen to act"):
            chaos.inject("network.grudge", "testbed:lab", effect_s=0.3)


def test_a_grudge_is_between_nodes(victim, tmp_path) -> None:
    with pytest.raises(PlanError, match="needs path of a target"):
        chaos.inject("network.grudge", f"pid:{victim.pid}")
    with pytest.raises(PlanError, match="write testbed:NAME"):
        chaos.inject("network.grudge", f"path:{tmp_path}")
