"""``aiobs chaos testbed``: nodes from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .chaos_scene import eventually

TESTBED = [sys.executable, "-m", "aiobs.cli", "chaos", "testbed"]


def said(*words: str, code: int = 0) -> str:
    """What the command says; it must end with `code`."""
    done = subprocess.run([*TESTBED, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code in (0, 7) else done.stderr


@pytest.fixture
def lab() -> Iterator[str]:
    """A testbed that nobody waits for."""
    assert said("up", "3", "--name", "lab", "--detach").startswith("testbed lab: a 10.")
    yield "lab"
    if "lab" in said("status"):
        said("down", "lab")


def test_nodes_stay_up_until_they_are_taken_down(lab: str) -> None:
    assert said("exec", "b", "--", "hostname") == "b\n"
    assert said("exec", "c@lab", "--", "sh", "-c", "echo $AIOBS_NODE; exit 7", code=7) == "c\n"
    sleeper = subprocess.Popen([*TESTBED, "exec", "b", "--", "sleep", "60"])
    try:
        assert eventually(lambda: "sleep 60" in said("ps", "lab"))
        (found,) = json.loads(said("status", "--json"))
        assert [(it["node"], it["link"], it["processes"]) for it in found["nodes"]] == [
            ("a", "up", 0), ("b", "up", 1), ("c", "up", 0),
        ]  # fmt: skip
        sleeper.terminate()  # is passed on
        assert sleeper.wait(10) == 128 + signal.SIGTERM
        assert not json.loads(said("ps", "--json"))
    finally:
        sleeper.kill()
        sleeper.wait()
    assert "a testbed of that name is up" in said("up", "2", "--name", "lab", "--detach", code=2)
    assert "has a, b, c" in said("exec", "z", "--", "true", code=2)
    said("down")
    assert "no testbed is up" in said("status")
    assert "there are none" in said("down", code=2)


def test_a_testbed_nobody_waits_for_has_an_end(chaos_place: Path) -> None:
    said("up", "one,two", "--name", "lab", "--detach", "--lasts", "0.5")
    assert eventually(lambda: not list((chaos_place / "testbeds").iterdir()))


def test_a_command_runs_in_every_node_and_the_worst_code_is_told() -> None:
    script = "import os; os.write(1, b'{node} {index} {address} {nodes}\\n'); raise SystemExit({index})"
    done = subprocess.run(
        [*TESTBED, "up", "3", "--", sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    lines = sorted(line.split() for line in done.stdout.splitlines())
    assert [(line[0], line[1], line[3]) for line in lines] == [("a", "0", "3"), ("b", "1", "3"), ("c", "2", "3")]
    assert len({line[2] for line in lines}) == 3


@pytest.mark.parametrize(("rejoin", "code"), [("true", 0), ("false", 137)])
def test_a_command_that_was_lost_is_waited_for_where_it_comes_back(tmp_path: Path, rejoin: str, code: int) -> None:
    script = (
        "import os, pathlib, time\n"
        "went = pathlib.Path(os.environ['WENT'], '{node}')\n"
        "first = not went.exists()\n"
        "went.touch()\n"
        "if first and '{node}' == 'b': time.sleep(60)\n"
    )
    up = subprocess.Popen(
        [*TESTBED, "up", "2", "--name", "lab", "--", sys.executable, "-c", script],
        env={**os.environ, "WENT": str(tmp_path)},
    )  # fmt: skip
    try:
        assert eventually((tmp_path / "b").exists)
        inject = [sys.executable, "-m", "aiobs.cli", "chaos", "inject", "node.loss", "node:b@lab"]
        subprocess.run([*inject, f"rejoin={rejoin}", "--duration", "0.5"], check=True, capture_output=True)
        assert up.wait(20) == code
    finally:
        up.kill()
        up.wait()
