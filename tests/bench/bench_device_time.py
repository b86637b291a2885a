"""What device time adds to a phase on the application thread: bookkeeping, with a GPU that is simulated.

The simulated GPU's own calls cost what a method call costs in Python; CUDA's are not in these figures. Sides: a
phase as it is; with device time off because PyTorch has no CUDA; with device time.
Run: python tests/bench/bench_device_time.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from side import median, options, table

WORKER = """
import json, sys, time
rounds, phases = int(sys.argv[1]), int(sys.argv[2])
import torch
import aiobs
from aiobs import recorder
aiobs.init(service_name="bench", agent="off", ring_bytes=1 << 22)
from aiobs.patches.torch import gpu, loops
from aiobs.patches.torch.cuda_events import Place
loop = loops.begin()
steps, name = loop.steps, "forward"
number = recorder.phase_id(name)
clock = time.monotonic_ns

class Event:
    __slots__ = ("at",)
    def record(self, stream):
        self.at = clock()
    def query(self):
        return True
    def elapsed_time(self, end):
        return (end.at - self.at) / 1e6
    def synchronize(self):
        pass

class Gpus:
    place = Place(0, None)
    def here(self):
        return self.place
    def event(self):
        return Event()
    def capturing(self):
        return False

def plain():
    for _ in range(phases):
        steps.leave(steps.enter(number, clock()), clock())
    steps.mark_end()
    steps.close()

def hooked():
    for _ in range(phases):
        loop._leave(loop._enter(name, clock()), clock())
    steps.mark_end()
    loop._close()

def timed(function):
    begin = time.perf_counter()
    for _ in range(50):
        function()
    return (time.perf_counter() - begin) / 50 / phases * 1e6

found = []
for _ in range(rounds):
    turn = [timed(plain), timed(hooked)]
    gpu.side.gpus = Gpus()
    turn.append(timed(hooked))
    gpu.side.gpus = loop._gpu = None
    found.append(turn)
print(json.dumps(found))
"""
PHASES = 8


def measure(rounds: int) -> list[list[float]]:
    """Microseconds of a phase by round and side."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        variables = {"AIOBS_RUNTIME_DIR": f"{folder}/runtime"}
        done = subprocess.run(
            [sys.executable, "-c", WORKER, str(rounds), str(PHASES)],
            capture_output=True, text=True, env={**os.environ, **variables}, cwd=folder, check=True,
        )  # fmt: skip
        found: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
        return found


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = options(__doc__)
    chosen = parser.parse_args(argv)
    found = measure(3 if chosen.quick else 40)
    sides = ["recorder alone", "PyTorch without CUDA", "device time, simulated"]
    rows = [
        [side, median([turn[i] for turn in found]), median([turn[i] - turn[1] for turn in found])]
        for i, side in enumerate(sides)
    ]
    head = ["side", "µs a phase", "more than without CUDA"]
    if chosen.json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows]))
    else:
        print(table(f"A phase of a step of {PHASES}, begin, end and its share of the step's end", head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
