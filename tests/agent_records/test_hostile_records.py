"""A flight record is hostile input: whatever is in the file, the outcome is bounded and clear."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiobs.agent.assemble import Assembler
from aiobs.agent.exits import Exit
from aiobs.agent.reader import FlightReader
from aiobs.errors import RecordError
from aiobs.recorder import layout
from aiobs.telemetry import Row

EXAMPLES = int(os.environ.get("AIOBS_FUZZ_EXAMPLES", "120"))

RICH = """
    start(keep_first=3, keep_every=2)
    process = recorder.start_span("process", {"a": 1, "text": "héllo", "list": [1, {"k": "v"}]})
    for i in range(6):
        step(lambda: recorder.span("inner", i=i, text="some text").__enter__().__exit__(None, None, None))
        recorder.log(loss=float(i))
        recorder.steps().set("batch", i)
        recorder.steps().close()
        with recorder.span("work", i=i, ratio=0.5, flag=True, text="x" * 20) as span:
            recorder.event("seen", i=i)
            span.link(process.context, {"why": "so"})
            span.set("later", [1, 2])
        with recorder.span("long", text="y" * 700):
            pass
    try:
        with recorder.span("bad"):
            raise ValueError("no")
    except ValueError:
        pass
    phase("forward").__enter__()
    recorder.start_span("open", {"text": "z"})
    kill()
"""


@pytest.fixture(scope="module")
def intact(recorded_once: Any) -> Path:
    reader = recorded_once.run(RICH, RING="49152")
    reader.close()
    path: Path = reader.path
    return path


def digest(path: Path) -> tuple[list[Row], Assembler]:
    """Read all of a record, as the agent would; raises RecordError or gives rows."""
    reader = FlightReader(path)
    try:
        assembler = Assembler(reader.route)
        rows: list[Row] = []
        for _ in range(20):
            if not assembler.add(reader):
                break
            json.dumps(assembler.snapshot())
        assembler.process_ended(reader, Exit("signal", None, "SIGKILL", time.monotonic_ns()))
        batch = assembler.take(time.time_ns(), metrics=True)
        rows += [row for _, found in batch.spans for row in found]
        for resource, _ in batch.spans:
            json.dumps(dict(resource.attributes)).encode()
        reader.counters()
        reader.commit(reader.position)
        return rows, assembler
    finally:
        reader.close()


PYTHON = {"q": int, "d": float, "b": bool, "s": str}


def check(rows: list[Row]) -> None:
    """Every row is one that an encoder can take."""
    for shape, trace, span, parent, start, end, values, extra in rows:
        assert (len(trace), len(span)) == (16, 8)
        assert len(parent) in (0, 8)
        assert any(span)
        assert -(1 << 63) < start <= end < 1 << 63
        assert len(shape.keys) == len(shape.types) == len(values)
        for letter, value in zip(shape.types, values, strict=True):
            if letter in PYTHON:
                assert type(value) is PYTHON[letter]
            if letter == "q":
                assert -(1 << 63) <= value < 1 << 63
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        shape.name.encode("utf-8")
        if extra is not None:
            json.dumps(extra.attributes, ensure_ascii=False).encode("utf-8")
            for event in extra.events:
                assert -(1 << 63) < event.time_ns < 1 << 63
                json.dumps([event.name, dict(event.attributes)], ensure_ascii=False).encode("utf-8")


def test_the_intact_record_is_whole(intact: Path, tmp_path: Path) -> None:
    path = tmp_path / "1-1-0.fr"
    path.write_bytes(intact.read_bytes())
    path.chmod(0o600)
    rows, _ = digest(path)
    check(rows)
    names = [row[0].name for row in rows]
    assert names.count("work") == names.count("long") == 6
    assert {"process", "open", "bad", "inner", "train step"} <= set(names)


PLACES = st.one_of(
    st.integers(0, 600),
    st.integers(layout.TABLE_AT, layout.TABLE_AT + 4000),
    st.integers(layout.SLOTS_AT, layout.SLOTS_AT + 600),
    st.integers(layout.AREAS_AT, layout.AREAS_AT + 400),
    st.integers(layout.RING_AT, layout.RING_AT + 256 * layout.CELL_BYTES - 1),
    # the heads of the ring's first cells
    st.builds(lambda cell, at: layout.RING_AT + cell * layout.CELL_BYTES + at, st.integers(0, 90), st.integers(0, 90)),
)
PATCHES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from(
        [b"\xff" * 8, b"\0" * 8, b"\xff" * 192, b"\0" * 4096, b"[" * 300, b'"\\ud800"', b"\xff\xff\xff\x7f"]
    ),
)


def test_a_step_area_that_looks_like_a_slot(intact: Path, tmp_path: Path) -> None:
    """With one slot more than there are, the first step area is taken for one."""
    damaged = bytearray(intact.read_bytes())
    damaged[layout.GEOMETRY_AT + 12 : layout.GEOMETRY_AT + 16] = (layout.SLOTS + 1).to_bytes(4, "little")
    path = tmp_path / "1-1-0.fr"
    path.write_bytes(damaged)
    path.chmod(0o600)
    rows, _ = digest(path)
    check(rows)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patches=st.lists(st.tuples(PLACES, PATCHES), min_size=1, max_size=6))
def test_a_damaged_record_gives_what_is_left_or_a_clear_error(
    intact: Path, tmp_path: Path, patches: list[tuple[int, bytes]]
) -> None:
    damaged = bytearray(intact.read_bytes())
    for at, patch in patches:
        damaged[at : at + len(patch)] = patch
    path = tmp_path / "1-1-0.fr"
    path.write_bytes(damaged[: intact.stat().st_size])
    path.chmod(0o600)
    began = time.process_time()
    with suppress(RecordError):
        rows, _ = digest(path)
        check(rows)
        assert len(rows) < 5000
    assert time.process_time() - began < 5


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.one_of(st.integers(0, 5000), st.integers(0, layout.file_bytes(256))))
def test_a_record_cut_short(intact: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "1-1-0.fr"
    path.write_bytes(intact.read_bytes()[:size])
    path.chmod(0o600)
    if size >= intact.stat().st_size:
        digest(path)
        return
    with pytest.raises(RecordError, match=r"1-1-0\.fr: "):
        digest(path)


def test_cut_short_while_being_read(recorded: Any) -> None:
    reader = recorded.run(RICH)
    assembler = Assembler(reader.route)
    os.truncate(reader.path, layout.RING_AT)
    with pytest.raises(RecordError, match="cut short"):
        assembler.add(reader)
    assembler.abandon(reader)
    assembler.take(time.time_ns())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.write_bytes(b""), "too few"),
        (lambda path: path.write_bytes(bytes(10_000)), "not a flight record"),
        (lambda path: path.chmod(0o666), "others may write"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be opened"),
        (lambda path: (path.unlink(), os.mkfifo(path, 0o600)), "not a plain file"),
        (lambda path: path.rename(path.with_name("x")) and path.symlink_to(path.with_name("x")), "cannot be opened"),
    ],
)
def test_what_is_no_flight_record_is_refused_with_its_reason(
    intact: Path, tmp_path: Path, change: Any, reason: str
) -> None:
    path = tmp_path / "1-1-0.fr"
    path.write_bytes(intact.read_bytes())
    path.chmod(0o600)
    change(path)
    with pytest.raises(RecordError, match=reason):
        FlightReader(path)


def test_a_record_of_somebody_else_is_refused(intact: Path, tmp_path: Path) -> None:
    path = tmp_path / "1-1-0.fr"
    path.write_bytes(intact.read_bytes())
    path.chmod(0o600)
    with pytest.raises(RecordError, match=f"belongs to user {os.geteuid()}"):
        FlightReader(path, owner=os.geteuid() + 1)


def test_another_version_is_named(intact: Path, tmp_path: Path) -> None:
    path = tmp_path / "1-1-0.fr"
    changed = bytearray(intact.read_bytes())
    changed[8:12] = (99).to_bytes(4, "little")
    path.write_bytes(changed)
    path.chmod(0o600)
    with pytest.raises(RecordError, match="version 99"):
        FlightReader(path)


def test_no_descriptor_is_left_behind(intact: Path, tmp_path: Path) -> None:
    path = tmp_path / "1-1-0.fr"
    path.write_bytes(intact.read_bytes()[:5000])
    path.chmod(0o600)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(RecordError):
            FlightReader(path)
    assert len(os.listdir("/proc/self/fd")) == before
