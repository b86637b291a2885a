"""What needs no root works without: the tests of testbed, nodes and network, run by a user who may nothing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .ordinary_user import home_of_nobody, run_as_nobody, why_not

HERE = Path(__file__).parent
CASES = {
    "test_testbed.py": "",
    "test_testbed_command.py": "nodes_stay",
    "test_node_faults.py": "",
    "test_grudges.py": "heals or dead",
    "test_network_faults.py": "partition or bandwidth or foreign or arrives",
    "test_latency_faults.py": "to_a_port or closed or stand",
}
"""Files, and which of their tests where all would take too long."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "can be done")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_it_works_without_root(name: str) -> None:
    words = [str(HERE / name), *(("-k", CASES[name]) if CASES[name] else ())]
    with home_of_nobody() as home:
        run = run_as_nobody(
            [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:randomly", *words],
            home,
            timeout_s=280,
        )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert re.search(r"\d+ passed", run.stdout)
    skipped = re.findall(r"^SKIPPED .*", run.stdout, re.MULTILINE)
    assert all("this host's own packets" in line for line in skipped), skipped
