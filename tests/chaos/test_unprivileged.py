"""As root: what an ordinary user can do is done as one, so that no run of all tests goes without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user: needs root")


def as_user(*words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as an ordinary user."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        return subprocess.run(
            [
                sys.executable, "-m", "tests.chaos.as_user", folder,
                sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words,
            ],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip


def test_every_fault_that_needs_no_root_acts_and_is_undone_as_a_user() -> None:
    done = as_user("tests/chaos/test_every_fault_acts.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_nothing_is_left_of_a_users_faults_whoever_is_killed_when() -> None:
    chosen = "pause or files or memory.limit or proxy or tear or point.hang or rank.stall or node.loss or throttle"
    done = as_user("tests/chaos/test_random_kills.py", "-k", f"whoever and ({chosen})")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 10


@pytest.mark.parametrize(
    ("module", "chosen"),
    [("test_faults_end", "injector or recovery or stop_file"), ("test_points", "dead or any_function")],
)
def test_faults_end_for_a_user_too(module: str, chosen: str) -> None:
    done = as_user(f"tests/chaos/{module}.py", "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
