"""A random life of training steps leaves the same bytes with the compiled core as with the Python that stands in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiobs.recorder.compiled import core

SCENARIO = """
import random, sys
from pathlib import Path
from aiobs import recorder
from aiobs.recorder import layout as at
from aiobs.settings import Settings
from aiobs.telemetry import Route

recorder.start(Settings(), {}, Route(run_id="r"), Path(sys.argv[1]))
state, flight, chance = recorder.state, recorder.state.flight, random.Random(int(sys.argv[2]))
memory, steps = flight.mm, recorder.steps()
phases = [recorder.phase_id(name) for name in ("data", "forward", "backward")]
assert len(phases) == 3
# Beyond every thread id, so that no time is taken for one.
clock, tokens = 3_000_000_000, []

def show(*what):
    # Times, counts and flags of the writer, then the head of its area and what it holds, but for the thread.
    area = bytearray(memory[steps._area : steps._area + 88 + 24 * steps._count] if steps._area else 88)
    area[40:44] = bytes(4)
    for i in range(steps._count):
        area[92 + 24 * i : 96 + 24 * i] = bytes(4)
    print(*what, steps.open, steps.number, steps.start_ns, steps.provisional_end_ns, steps._count, steps._begun,
          steps._marked, steps._serial, steps.claimed, steps._stack, steps.token, dict(steps._attributes), area.hex())

def enter():
    tokens.append(steps.enter(chance.choice(phases), clock))

def burst():
    for _ in range(chance.choice((3, 5, 40, 400))):
        steps.leave(steps.enter(phases[0], clock), clock + 1)

def leave():
    if tokens:
        steps.leave(tokens.pop(chance.randrange(-min(2, len(tokens)), 0)), clock)

def close():
    steps.close(chance.choice((None, None, clock, clock - 15)) or (None if steps.provisional_end_ns else clock), skipped=chance.random() < 0.2)

def attribute():
    steps.set("batch", 32)

def begin():
    steps.begin(chance.choice((None, None, 7)), start_ns=clock)

def claim():
    steps.explicit = steps.claimed = True

def outside():
    state.foreign = None if state.foreign else lambda: (clock, None)

actions = {enter: 12, leave: 10, burst: 1, close: 4, begin: 2, attribute: 1, outside: 1, claim: 1,
           lambda: steps.mark_end(clock): 4, lambda: steps.mark_end(at_ns=clock): 1, steps.discard: 1}
for action in chance.choices(list(actions), list(actions.values()), k=600):
    clock += chance.choice((0, 1, 10, 10, 30))
    action()
    show(clock)

cells = {}
for seq in range(at.FIRST_SEQ, flight.next_seq()):
    cell = flight.ring_at + seq % flight.cells * at.CELL_BYTES
    head = list(at.HEAD.unpack_from(memory, cell))
    assert head[14] == seq + 1, "a hole in the ring"
    cells[head[0]] = cells.get(head[0], 0) + 1
    body = memory[cell + 80 : cell + 80 + head[9]]
    words = [body[place : place + 4] for place in range(0, len(body), 4)]
    own = recorder.hot.thread.number.to_bytes(4, "little")
    print(head[:8], head[9:], len(body), ["thread" if word == own else word.hex() for word in words])
assert cells[at.STEP] > 20 and cells[at.PART] > 20, cells
print(recorder.core_name(), file=sys.stderr)
"""


@pytest.mark.skipif(core is None, reason="this installation has no compiled core")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_of_calls_leaves_the_same_steps(tmp_path: Path, seed: int) -> None:
    said = []
    for pure, name in (("1", "pure"), ("0", "compiled")):
        (tmp_path / name).mkdir()
        ran = subprocess.run(
            [sys.executable, "-c", SCENARIO, str(tmp_path / name), str(seed)],
            env={**os.environ, "AIOBS_PURE": pure},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.splitlines()[-1] == name
        said.append(ran.stdout.splitlines())
    for ours, theirs in zip(*said, strict=True):
        assert ours == theirs
