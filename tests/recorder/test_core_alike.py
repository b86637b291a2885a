"""The compiled core and the Python that stands in for it write the same bytes."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs.recorder import schema
from aiobs.recorder.compiled import core

needs_core = pytest.mark.skipif(core is None, reason="this installation has no compiled core")

SCENARIO = """
import json, sys
from pathlib import Path
from aiobs import recorder
from aiobs.recorder import layout as at, span, start_span
from aiobs.recorder.around import current
from aiobs.propagation import Context
from aiobs.settings import Settings
from aiobs.telemetry import Route

recorder.start(Settings(join_limit=2), {}, Route(run_id="r"), Path(sys.argv[1]))
state, flight = recorder.state, recorder.state.flight
memory = flight.mm

def twice(name, **attributes):
    # The first of a kind goes the long way, later ones the short one.
    for _ in range(3):
        with span(name, **attributes):
            pass

twice("bare")
twice("all sorts", a=1, b="text", c=0.5, d=True, e="naïve ☃")
twice("extremes", least=-(2**63), most=2**63 - 1, none=float("-inf"), empty="")
twice("beyond", big=2**80, lone="\\ud800", long="x" * 500, none=None, items=[1, "a", 2.5])
twice("just fits", text="x" * (112 - 2)); twice("just not", text="x" * (112 - 1))
for value in (1, "one", 1.0, True, 2, None, [1]):
    twice("changing types", value=value)
twice("many", **{f"key{i}": i for i in range(40)})
with span("outer", depth=0) as outer:
    with span("inner") as inner:
        outer.set("later", "yes")
        inner.event("happened", {"at": 1})
        inner.link(Context(bytes(range(16)), bytes(range(8))))
    with span("told") as told:
        told.set_all({"a": 1, "b": [1]}); told.rename("renamed"); told.succeed()
    alone = span("started").start()
    with alone:
        twice("in started")
    alone.end(); alone.end()
try:
    with span("failing", code=7):
        raise ValueError("wrong")
except ValueError:
    pass
made = start_span("server", {"a": 1}, kind=2, parent=Context(bytes(range(16)), bytes(range(8)), remote=True, trace_state="v=1"))
with made:
    twice("below")
state.ambient = Context(bytes(range(1, 17)), bytes(range(1, 9)))
twice("joining"); twice("outside")
assert (state.joined, state.outside) == (2, 4), (state.joined, state.outside)
state.ambient = None

steps = recorder.steps()
forward, backward = recorder.Phase("forward"), recorder.Phase("backward")
for number in range(3):
    with forward:
        twice("in forward", step=number)
        with span("block"), backward, forward:
            twice("deep")
            assert current() == steps.context()
    with span("between"), backward:
        twice("in backward")
    steps.set("batch", 32)
    steps.mark_end()
    moved = steps.enter(forward._id)
    inner_one = steps.enter(backward._id)
    steps.close(skipped=number == 1)
    steps.leave(inner_one); steps.leave(moved); steps.leave(moved)
    twice("after close")
steps.close()
while flight.free[-1][0]:
    if len(flight.free) == 1:
        break
    flight.free.pop()
with span("last mark"), span("unmarked", a=1), span("unmarked too"):
    pass
open_one = span("left open", a=1).start()
recorder.log(loss=0.5)
flight.mm[64] = 1
twice("switched off")

records = []
for seq in range(at.FIRST_SEQ, flight.next_seq()):
    cell = flight.ring_at + seq % flight.cells * at.CELL_BYTES
    head = list(at.HEAD.unpack_from(memory, cell))
    assert head[14] == seq + 1, "a hole in the ring"
    records.append([head, memory[cell + 80 : cell + 80 + head[9]].hex()])
marks = [list(at.HEAD.unpack_from(memory, at.SLOTS_AT + i * at.CELL_BYTES)) for i in range(at.SLOTS)]
table = memory[at.TABLE_AT : at.TABLE_AT + 65536].rstrip(b"\\0").decode("utf-8", "replace")
counters = [int.from_bytes(memory[i : i + 8], "little") for i in (at.UNMARKED, at.CLIPPED, at.FAULTS, at.UNRECORDED)]
print(json.dumps([recorder.core_name(), records, [m for m in marks if m[14]], table, counters]))
"""
SPAN, STEP, PART = 1, 4, 5


def recorded(folder: Path, pure: bool) -> list[Any]:
    """What the scenario wrote, with ids, times and thread numbers replaced by when they were first seen."""
    folder.mkdir()
    environment = {**os.environ, "AIOBS_PURE": "1" if pure else "0"}
    ran = subprocess.run(
        [sys.executable, "-c", SCENARIO, str(folder)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    name, records, marks, table, counters = json.loads(ran.stdout)
    assert name == ("pure" if pure else "compiled")
    seen: dict[int, int] = {0: 0}

    def number(identity: int) -> int:
        return seen.setdefault(identity, len(seen))

    found: list[Any] = []
    pieces = ""
    for head, payload in [*records, *([mark, ""] for mark in marks)]:
        kind, flags, slot, schema_id, high, low, span, parent, _thread, size, parts, start, aux, end, _seq = head
        if kind == PART and not span:
            pieces += payload
            continue
        if kind == STEP:
            # Entries: phase, enclosing, thread, start, end.
            raw, pieces = bytes.fromhex(payload + pieces), ""
            count = struct.unpack_from("<H", raw)[0]
            entries = [struct.unpack_from("<HHIQQ", raw, 8 + 24 * i) for i in range(count)]
            payload = raw[:8].hex() + raw[8 + 24 * count :].hex() + str([(e[0], e[1], e[4] > e[3]) for e in entries])
        found.append([kind, flags, slot, schema_id, number(high), number(low), number(span), number(parent), size,
                      parts, start > 0, aux, end > 0, payload])  # fmt: skip
    return [found, table, counters]


@needs_core
def test_the_same_program_leaves_the_same_record(tmp_path: Path) -> None:
    pure, compiled = recorded(tmp_path / "pure", True), recorded(tmp_path / "compiled", False)
    for ours, theirs in zip(*(side[0] for side in (compiled, pure)), strict=False):
        assert ours == theirs
    assert compiled[1:] == pure[1:]
    assert len(compiled[0]) == len(pure[0]) > 120


values = st.one_of(
    st.integers(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.text(),
    st.text("ab\ud800☃"),
    st.none(),
)
LETTERS = {bool: "b", int: "q", float: "d", str: "s"}


@needs_core
@given(
    st.lists(values, min_size=1, max_size=12),
    st.lists(st.sampled_from("qdbsj"), min_size=1, max_size=12),
    st.booleans(),
)
def test_values_are_packed_alike(given_values: list[Any], letters: list[str], fitting: bool) -> None:
    if fitting:
        letters = [LETTERS.get(type(value), "j") for value in given_values]
    text = "".join(letters)
    # Values of the wrong number never reach a form: it is found by its keys.
    shown = (given_values * len(letters))[: len(letters)]
    try:
        expected = schema._pack_function(text)(shown)
    except (struct.error, UnicodeEncodeError):
        expected = None
    assert core.Shape(text, 1)(shown) == expected


@needs_core
def test_a_shape_refuses_what_it_was_not_made_for() -> None:
    assert core.Shape("q", 1)([1, 2]) is None
    assert core.Shape("s", 1)(["x" * 65536]) is None
    with pytest.raises(ValueError, match="letters"):
        core.Shape("qx", 1)
    with pytest.raises(TypeError):
        core.Shape("q", 1)(5)


def test_which_core_is_used_can_be_chosen_and_found_out(tmp_path: Path) -> None:
    script = "from aiobs import recorder; print(recorder.core_name())"
    ask = [sys.executable, "-c", script]
    chosen = subprocess.run(ask, env={**os.environ, "AIOBS_PURE": "1"}, capture_output=True, text=True, check=True)
    assert chosen.stdout == "pure\n"
    # A core built for another layout of the bytes must not be used.
    stale = "import sys; old = type(sys)('old'); old.LAYOUT = (0,); sys.modules['aiobs.recorder._core'] = old"
    ask = [sys.executable, "-c", f"{stale}\n{script}"]
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "pure\n"
    missing = "import sys; sys.modules['aiobs.recorder._core'] = None"
    ask = [sys.executable, "-c", f"{missing}\n{script}"]
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "pure\n"


@needs_core
def test_the_core_alone_says_what_it_lacks() -> None:
    script = """
        from aiobs.recorder import _core
        for call in (lambda: _core.span("x"), lambda: _core.HotSteps().enter(1), lambda: _core.HotPhase().__enter__()):
            try:
                call()
            except RuntimeError as error:
                assert "wire" in str(error)
            else:
                raise SystemExit("no error")
        _core.HotSteps().leave(1)
        _core.HotSpan().end()
        for bad in ((b"", [], 4096, 1, 1), (bytearray(4096), [], 4096, 4, 1), (bytearray(4096), [], 0, 0, 1)):
            try:
                _core.Writer(*bad)
            except (ValueError, BufferError):
                continue
            raise SystemExit(f"{bad} taken")
    """
    # Loaded without aiobs.recorder's own start, which wires it.
    lines = "\n".join(line[8:] for line in script.splitlines())
    lines = lines.replace(
        "from aiobs.recorder import _core",
        "from importlib.machinery import ExtensionFileLoader\nfrom importlib.util import module_from_spec, spec_from_loader\n"
        f"loader = ExtensionFileLoader('_core', {core.__file__!r})\n_core = module_from_spec(spec_from_loader('_core', loader))",
    )
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
