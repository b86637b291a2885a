"""What an unarmed point costs, and one that is armed elsewhere, in a tight loop; the loop itself taken off.

Run: python tests/bench/bench_point.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from side import median

WORKER = """
import json, sys, time
import aiobs
count = int(sys.argv[1])
point = aiobs.point

def loop(n):
    for _ in range(n):
        pass

def bare(n):
    for _ in range(n):
        point("checkpoint.write")

def valued(n):
    for _ in range(n):
        point("train.loss", 0.5)

def measure(function):
    function(count // 10)
    found = []
    for _ in range(7):
        start = time.perf_counter()
        loop(count)
        middle = time.perf_counter()
        function(count)
        found.append((2 * middle - start - time.perf_counter()) / -count * 1e9)
    return sorted(found)[3]

results = {"not recording": measure(bare)}
aiobs.init(service_name="bench")
results["unarmed"] = measure(bare)
results["unarmed, with a value"] = measure(valued)
from aiobs.recorder import layout, state
state.flight.mm[layout.POINTS_ARMED] = 1
from aiobs.chaos.points import armed
armed.look()
count //= 20
state.flight.mm[layout.POINTS_ARMED] = 1
results["another point armed"] = measure(bare)
print(json.dumps(results))
"""


def one(count: int) -> dict[str, float]:
    """Median ns of each case, in a new process."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        own = {"AIOBS_RUNTIME_DIR": f"{folder}/runtime", "AIOBS_AGENT": "off"}
        command = [sys.executable, "-c", WORKER, str(count)]
        ran = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    measured: dict[str, float] = json.loads(ran.stdout)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rounds = [one(20_000 if given.quick else 1_000_000) for _ in range(1 if given.quick else 5)]
    figures = {name: median([it[name] for it in rounds]) for name in rounds[0]}
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:24} {value:8.1f} ns")


if __name__ == "__main__":
    main()
