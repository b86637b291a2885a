"""Every benchmark runs and gives figures; what they are is nobody's business here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHES = sorted(Path(__file__).parent.glob("bench_*.py"))


def numbers(found: Any) -> list[float]:
    """All numbers of a JSON document."""
    if isinstance(found, dict):
        return [number for value in found.values() for number in numbers(value)]
    if isinstance(found, list):
        return [number for value in found for number in numbers(value)]
    return [found] if isinstance(found, (int, float)) else []


@pytest.mark.slow
@pytest.mark.parametrize("bench", BENCHES, ids=lambda path: path.stem)
def test_benchmark_gives_figures(bench: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "AIOBS_RUNTIME_DIR"}
    ran = subprocess.run(
        [sys.executable, bench, "--quick", "--json"], capture_output=True, text=True, timeout=110, env=environment
    )
    if ran.returncode == 77:
        pytest.skip(ran.stderr.strip())
    assert ran.returncode == 0, ran.stderr
    found = numbers(json.loads(ran.stdout.splitlines()[-1]))
    assert len(found) >= 2
    assert any(number > 0 for number in found)
