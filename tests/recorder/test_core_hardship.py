"""Both cores under what a program can do to them: SIGKILL, fork, threads, signals, garbage collection, a long life."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aiobs.recorder.compiled import core

Run = Callable[..., str]

START = """
import gc, os, random, signal, struct, sys, threading, time
from pathlib import Path
from aiobs import recorder
from aiobs.recorder import layout as at, span
from aiobs.settings import Settings
from aiobs.telemetry import Route

folder = Path(sys.argv[1])
state = recorder.state

def begin():
    recorder.start(Settings(), {}, Route(run_id="r"), folder)

def records(memory):
    # Every record in the ring, by number.
    cells = (len(memory) - at.RING_AT) // at.CELL_BYTES
    found = {}
    for cell in range(at.RING_AT, at.RING_AT + cells * at.CELL_BYTES, at.CELL_BYTES):
        head = at.HEAD.unpack_from(memory, cell)
        if head[14] > 1:
            found[head[14] - 1] = head, bytes(memory[cell + 80 : cell + 80 + head[9]])
    return found
"""


@pytest.fixture(params=["compiled", "pure"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a script with either core and returns what it printed."""
    if request.param == "compiled" and core is None:
        pytest.skip("this installation has no compiled core")

    def run(script: str, *arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "ignore", "-c", START + script, str(tmp_path), *arguments],
            env={**os.environ, "AIOBS_PURE": "1" if request.param == "pure" else "0"},
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout

    return run


@pytest.mark.slow
def test_every_record_is_whole_wherever_the_process_is_killed(run: Run) -> None:
    run("""
begin()
phase = recorder.Phase("work")
whole = 0
for trial in range(50):
    pid = os.fork()
    if pid == 0:
        number = 0
        while True:
            with phase, span("outer"):
                for _ in range(20):
                    number += 1
                    with span("work", number=number, text=str(number) * 4, odd=number % 2 == 1):
                        pass
            recorder.steps().close()
    deadline = time.monotonic() + 20
    while not (files := list(folder.glob(f"{pid}-*.fr"))):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    memory = files[0].read_bytes()
    files[0].unlink()
    found = records(memory)
    numbers = []
    for seq, (head, payload) in sorted(found.items()):
        kind, flags, slot, schema, high, low, identity, parent, thread, size, parts, start, aux, end, _ = head
        if kind != at.SPAN:
            continue
        assert identity and high and thread == pid and 0 < start <= end, (seq, head)
        if size:
            number, length, odd = struct.unpack_from("<qH?", payload)
            assert payload[11:] == str(number).encode() * 4 and odd == (number % 2 == 1), payload
            assert len(payload) == 11 + length and parent
            numbers.append(number)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    # At most the record being written is missing.
    assert not found or set(range(max(found) - len(found) + 1, max(found) + 1)) == set(found)
    marks = [at.HEAD.unpack_from(memory, at.SLOTS_AT + i * at.CELL_BYTES) for i in range(8)]
    for mark in marks:
        if mark[14]:
            assert mark[14] == 1 and mark[0] == at.SPAN and mark[6] and mark[11], mark
    whole += len(numbers)
assert whole > 1000, whole
""")


def test_threads_neither_lose_nor_double_a_record(run: Run) -> None:
    run("""
begin()
sys.setswitchinterval(1e-5)
count, threads = 2000, 6
phases = [recorder.Phase(f"phase {i % 2}") for i in range(2)]
def work(me):
    for i in range(count):
        with span("outer"):
            with span("inner", number=i, owner=me) as inner:
                if i % 50 == 0:
                    inner.event("half way")
        with phases[i % 2]:
            pass
    recorder.steps().close()
running = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
for thread in running: thread.start()
for thread in running: thread.join()
found = records(state.flight.mm)
assert sorted(found) == list(range(1, len(found) + 1))
spans = [head for head, _ in found.values() if head[0] == at.SPAN]
assert len(spans) == count * threads * 2, len(spans)
assert len({head[6] for head in spans}) == len(spans)
by_id = {head[6]: head for head in spans}
inner = [head for head in spans if head[9]]
assert len(inner) == count * threads
for head in inner:
    outer = by_id[head[7]]
    assert (outer[4], outer[5], outer[8]) == (head[4], head[5], head[8])
assert len(state.flight.free) == at.SLOTS and len({offset for offset, _ in state.flight.free}) == at.SLOTS
steps = [head for head, _ in found.values() if head[0] == at.STEP]
assert len(steps) >= threads
""")


def test_a_signal_handler_may_record_anywhere(run: Run) -> None:
    run("""
begin()
handled = 0
def handle(*_):
    global handled
    handled += 1
    with span("in handler", number=handled):
        pass
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
until, made = time.monotonic() + 0.4, 0
phase = recorder.Phase("phase")
while time.monotonic() < until:
    with span("outer"), phase, span("inner", number=made, text="x"):
        made += 1
signal.setitimer(signal.ITIMER_REAL, 0)
recorder.steps().close()
assert handled > 20
assert len(state.flight.free) == at.SLOTS
last = state.flight.next_seq()
found = records(state.flight.mm)
spans = [head for head, _ in found.values() if head[0] == at.SPAN]
if last < 32000:
    assert sorted(found) == list(range(1, last))
    assert len(spans) == 2 * made + handled
""")


def test_a_forked_child_draws_other_ids_and_leaves_the_parents_record_alone(run: Run) -> None:
    run("""
begin()
with span("before"):
    pass
into, out = os.pipe()
with span("around") as around, recorder.Phase("phase"):
    parents = state.flight
    before = bytes(parents.mm)
    pid = os.fork()
    if pid == 0:
        ids = []
        for _ in range(100):
            with span("in child") as made:
                ids.append(made.id)
        around.set("from", "child")
        around.end()
        with recorder.Phase("other"), span("in a phase"):
            pass
        assert state.flight is not parents
        mine = records(state.flight.mm)
        assert {head[8] for head, _ in mine.values()} == {os.getpid()}, "the child's own thread number"
        os.write(out, b"".join(i.to_bytes(8, "little") for i in ids))
        os._exit(0)
    raw = os.read(into, 800)
    assert os.waitpid(pid, 0)[1] == 0
    assert bytes(parents.mm) == before
ids = []
for _ in range(100):
    with span("in parent") as made:
        ids.append(made.id)
childs = [int.from_bytes(raw[i : i + 8], "little") for i in range(0, 800, 8)]
assert len(set(ids + childs)) == 200
""")


def test_nothing_is_written_to_a_record_that_is_closed(run: Run) -> None:
    run("""
begin()
path = state.flight.path
phase, steps = recorder.Phase("phase"), recorder.steps()
with span("open", a=1) as opened, phase:
    recorder.stop()
    before = path.read_bytes()
    with span("later"), phase:
        pass
    opened.event("late")
    opened.set("b", 2)
with opened:
    pass
steps.close()
assert path.read_bytes() == before
begin()
with span("in the next", a=1), phase:
    pass
recorder.steps().close()
assert path.read_bytes() == before
kinds = [head[0] for head, _ in records(state.flight.mm).values()]
assert kinds == [at.SPAN, at.STEP] or kinds == [at.STEP, at.SPAN], kinds
""")


def test_garbage_is_collected(run: Run) -> None:
    run("""
import weakref
class Mark: pass
begin()
def knot(entered):
    mark = Mark()
    made = span("knotted", value=1)
    if entered:
        made.start()
    made.attributes["me"] = made
    made.attributes["mark"] = mark
    return weakref.ref(mark)
gone = [knot(False), knot(True)]
gc.collect()
assert all(reference() is None for reference in gone)
def error_inside():
    mark = Mark()
    try:
        with span("failing", mark=mark):
            raise ValueError(mark)
    except ValueError:
        pass
    return weakref.ref(mark)
reference = error_inside()
gc.collect()
assert reference() is None
phase = recorder.Phase("phase")
def live(n):
    for i in range(n):
        with span("a", number=i), phase, span("b"):
            pass
        with span("c") as told:
            told.set("x", [i])
    recorder.steps().close()
    gc.collect()
live(100)
before = len(gc.get_objects())
live(1000)
assert len(gc.get_objects()) - before < 50, len(gc.get_objects()) - before
""")


@pytest.mark.slow
def test_a_long_life_takes_no_memory(run: Run) -> None:
    run("""
begin()
phase, steps = recorder.Phase("phase"), recorder.steps()
def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
def live(n):
    for i in range(n):
        with span("outer", number=i, text="text", share=0.5):
            with phase, span("inner"):
                pass
        if i % 100 == 0:
            steps.close()
            with span("changing", value=i if i % 200 else "text"):
                pass
live(60_000)
before = rss()
live(200_000)
grown = rss() - before
assert grown < 1 << 20, f"{grown} bytes"
""")


def test_wrong_calls_raise_as_python_does(run: Run) -> None:
    run("""
begin()
for call in (span, lambda: span("a", "b"), lambda: span(name="x"), lambda: span("x").end(1, 2), lambda: span("x").end(at=1)):
    try:
        call()
    except TypeError:
        continue
    raise SystemExit("no TypeError")
for odd in (5, None, b"x", ("a",), ["a"], "x" * 5000, ""):
    with span(odd, value=1):
        pass
with span("x", name="y", self=1) as made:
    assert made.attributes == {"name": "y", "self": 1}
assert made.__exit__(None, None, None) is None
assert not made.recording
try:
    with span("through"):
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
assert len([1 for head, _ in records(state.flight.mm).values() if head[0] == at.SPAN]) == 9
""")
