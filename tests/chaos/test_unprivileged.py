"""As root: what an ordinary user can do is done as one, so that no run of all tests goes without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.as_user import why_not, words

ROOT = Path(__file__).parents[2]
NETWORK = {
    "test_testbed": "",
    "test_testbed_command": "nodes_stay",
    "test_node_faults": "",
    "test_grudges": "heals or dead",
    "test_network_faults": "partition or bandwidth or foreign or arrives",
    "test_latency_faults": "to_a_port or closed or stand",
}
"""Modules, and which of their tests where all would take too long."""
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "can be done")


def as_user(*chosen: str) -> str:
    """Run pytest as an ordinary user, successfully; returns what it said."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        pytest_words = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:randomly"]
        done = subprocess.run(
            words(Path(folder), *pytest_words, *chosen), cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def passed(said: str) -> int:
    """How many tests passed."""
    found = re.search(r"(\d+) passed", said)
    return int(found[1]) if found else 0


def test_every_fault_that_needs_no_root_acts_and_is_undone_as_a_user() -> None:
    assert passed(as_user("tests/chaos/test_every_fault_acts.py")) == 1


def test_nothing_is_left_of_a_users_faults_whoever_is_killed_when() -> None:
    chosen = "pause or files or memory.limit or proxy or tear or point.hang or rank.stall or node.loss or throttle"
    assert passed(as_user("tests/chaos/test_random_kills.py", "-k", f"whoever and ({chosen})")) >= 10


@pytest.mark.parametrize(
    ("module", "chosen"),
    [("test_faults_end", "injector or recovery or stop_file"), ("test_points", "dead or any_function")],
)
def test_faults_end_for_a_user_too(module: str, chosen: str) -> None:
    assert "skipped" not in as_user(f"tests/chaos/{module}.py", "-k", chosen)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", NETWORK)
def test_nodes_and_networks_work_without_root(module: str) -> None:
    said = as_user(f"tests/chaos/{module}.py", *(("-k", NETWORK[module]) if NETWORK[module] else ()))
    assert passed(said)
    skipped = re.findall(r"^SKIPPED .*", said, re.MULTILINE)
    assert all("this host's own packets" in line for line in skipped), skipped
