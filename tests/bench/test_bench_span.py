"""The span benchmark runs; what it measures is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench_span.py"


@pytest.mark.slow
def test_the_span_benchmark_measures_every_side() -> None:
    ran = subprocess.run([sys.executable, BENCH, "--quick", "--json"], capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert set(result) == {
        "bare span",
        "span, 5 attributes",
        "span in a span",
        "phase",
        "span in a phase",
        "disabled span",
    }
    for row in result.values():
        assert row["pure_ns"] > 0
        assert row["pure_ratio"] > 0
