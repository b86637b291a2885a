"""Perfetto files: rows on which spans nest, processes with names, marks and arrows."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs.errors import RecordError
from aiobs.exporters import jsonl, perfetto
from aiobs.exporters.perfetto_events import Timeline
from aiobs.telemetry import Batch, Extra, Link, Resource, Route, Row, Shape, SpanEvent

START = 1_700_000_000_000_000_000


def row(name: str, start: int, end: int, extra: Extra | None = None, own: bytes = b"", **attributes: Any) -> Row:
    shape = Shape(name, keys=tuple(attributes), types="j" * len(attributes))
    return (
        shape,
        b"t" * 16,
        own or name.encode().ljust(8, b"_"),
        b"",
        START + start,
        START + end,
        tuple(attributes.values()),
        extra,
    )


def rank(number: int) -> Resource:
    return Resource({"service.name": "trainer", "aiobs.rank": number, "process.pid": 100 + number, "host.name": "h"})


def events(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def write(tmp_path: Path, *batches: Batch) -> list[dict[str, Any]]:
    exporter = perfetto.create(Route("r", run_dir=str(tmp_path)))
    for batch in batches:
        exporter.write(batch)
    exporter.close()
    return events(tmp_path / perfetto.FILE_NAME)


def test_ranks_are_processes_with_names(tmp_path: Path) -> None:
    found = write(tmp_path, Batch(spans=[(rank(0), [row("a", 0, 9)]), (rank(1), [row("b", 0, 9)])]))
    named = {e["pid"]: e["args"]["name"] for e in found if e["name"] == "process_name"}
    assert sorted(named.values()) == ["trainer rank 0 pid 100 on h", "trainer rank 1 pid 101 on h"]
    order = {named[e["pid"]]: e["args"]["sort_index"] for e in found if e["name"] == "process_sort_index"}
    assert order == {"trainer rank 0 pid 100 on h": 0, "trainer rank 1 pid 101 on h": 1}
    spans = {e["name"]: named[e["pid"]] for e in found if e["ph"] == "X"}
    assert spans == {"a": "trainer rank 0 pid 100 on h", "b": "trainer rank 1 pid 101 on h"}


def test_times_keep_their_nanoseconds(tmp_path: Path) -> None:
    found = write(tmp_path, Batch(spans=[(rank(0), [row("a", 1_000_001, 3_500_002), row("b", 1_000_003, 1_000_004)])]))
    a, b = [e for e in found if e["ph"] == "X"]
    assert round((b["ts"] - a["ts"]) * 1000) == 2
    assert (a["dur"], b["dur"]) == (2500.001, 0.001)


def test_a_process_that_began_long_before_has_no_negative_time(tmp_path: Path) -> None:
    day = 86400 * 10**9
    found = write(tmp_path, Batch(spans=[(rank(0), [row("a", 0, 9)])]), Batch(spans=[(rank(0), [row("b", -day, 10)])]))
    b, a = sorted((e for e in found if e["ph"] == "X"), key=lambda e: e["ts"])
    assert b["ts"] > 0
    assert a["ts"] - b["ts"] == pytest.approx(86400 * 10**6)
    assert a["tid"] == b["tid"]


def test_events_are_marks_errors_are_red_and_links_are_arrows(tmp_path: Path) -> None:
    extra = Extra(
        2, "boom", {}, [SpanEvent("nan seen", START + 5, {"loss": float("nan")})], [Link(b"x" * 16, b"first___")]
    )
    found = write(tmp_path, Batch(spans=[(rank(0), [row("first", 0, 3)]), (rank(1), [row("second", 4, 9, extra)])]))
    (mark,) = [e for e in found if e["ph"] == "i"]
    assert (mark["name"], mark["args"]) == ("nan seen", {"loss": "NaN"})
    first, second = [e for e in found if e["ph"] == "X"]
    assert second["args"]["error"] == "boom"
    assert second["cname"] == "terrible"
    begin, end = [e for e in found if e["ph"] in "sf"]
    assert (begin["ph"], begin["pid"], begin["ts"]) == ("s", first["pid"], first["ts"])
    assert (end["ph"], end["pid"], end["ts"], end["id"]) == ("f", second["pid"], second["ts"], begin["id"])


def test_a_file_can_be_opened_while_it_is_written_and_is_continued(tmp_path: Path) -> None:
    exporter = perfetto.create(Route("r", run_dir=str(tmp_path)))
    exporter.write(Batch(spans=[(rank(0), [row("a", 0, 9)])]))
    path = tmp_path / perfetto.FILE_NAME
    assert len(json.loads(path.read_text() + "]")) == 5
    exporter.close()
    again = perfetto.create(Route("r", run_dir=str(tmp_path)))
    again.write(Batch(spans=[(rank(0), [row("b", 10, 19)])]))
    again.close()
    a, b = [e for e in events(path) if e["ph"] == "X"]
    assert b["ts"] - a["ts"] == pytest.approx(0.01, abs=0.001)
    assert (a["pid"], a["tid"]) == (b["pid"], b["tid"])


@pytest.mark.parametrize("cut", [1, 5, 40, 200])
def test_a_torn_file_is_mended(tmp_path: Path, cut: int) -> None:
    exporter = perfetto.create(Route("r", run_dir=str(tmp_path)))
    exporter.write(Batch(spans=[(rank(0), [row("a", 0, 9), row("b", 1, 2)])]))
    exporter.close()
    path = tmp_path / perfetto.FILE_NAME
    path.write_bytes(path.read_bytes()[: -3 - cut])
    again = perfetto.create(Route("r", run_dir=str(tmp_path)))
    again.write(Batch(spans=[(rank(0), [row("c", 10, 19)])]))
    again.close()
    assert [e["name"] for e in events(path) if e["ph"] == "X"][-1] == "c"


def test_foreign_content_is_replaced(tmp_path: Path) -> None:
    (tmp_path / perfetto.FILE_NAME).write_text('{"traceEvents": []}')
    assert [e["name"] for e in write(tmp_path, Batch(spans=[(rank(0), [row("a", 0, 9)])])) if e["ph"] == "X"] == ["a"]


def test_a_run_folder_is_converted(tmp_path: Path) -> None:
    exporter = jsonl.create(Route("r", run_dir=str(tmp_path / "run")))
    exporter.write(Batch(spans=[(rank(0), [row("a", 0, 9, step=3)])]))
    exporter.write(Batch(spans=[(rank(1), [row("b", 0, 9)])]))
    exporter.close()
    out = tmp_path / "out.json"
    assert perfetto.convert(tmp_path / "run", out) == 2
    a, b = [e for e in events(out) if e["ph"] == "X"]
    assert (a["name"], a["args"]["step"], b["name"]) == ("a", 3, "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "run"]
    with pytest.raises(RecordError):
        perfetto.convert(tmp_path / "none", out)
    (tmp_path / "empty").mkdir()
    assert perfetto.convert(tmp_path / "empty", out) == 0
    assert events(out) == []


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=40), st.integers(1, 5))
def test_spans_of_a_row_always_nest(intervals: list[tuple[int, int]], batches: int) -> None:
    timeline = Timeline(START)
    resource = rank(0)
    found: list[dict[str, Any]] = []
    for number in range(batches):
        rows = [row("s", start * 1000, (start + size) * 1000) for start, size in intervals[number::batches]]
        found += [json.loads(text) for text in timeline.events(Batch(spans=[(resource, rows)]))]
    spans = [e for e in found if e["ph"] == "X"]
    assert len(spans) == len(intervals)
    for thread in {e["tid"] for e in spans}:
        one = sorted([(e["ts"], e["ts"] + e["dur"]) for e in spans if e["tid"] == thread])
        for number, (start, end) in enumerate(one):
            for other_start, other_end in one[number + 1 :]:
                apart = other_start >= end or start >= other_end
                inside = (start <= other_start and other_end <= end) or (other_start <= start and end <= other_end)
                assert apart or inside


def test_spans_one_after_the_other_or_within_share_a_row() -> None:
    timeline = Timeline(START)
    resource = rank(0)
    # As an agent sees them: what is inside ends first, and its process last of all.
    steps = [
        [row("f", n * 10 + 1, n * 10 + 4), row("b", n * 10 + 4, n * 10 + 9), row("step", n * 10, n * 10 + 10)]
        for n in range(50)
    ]
    found = [
        text for rows in [*steps, [row("process", 0, 600)]] for text in timeline.events(Batch(spans=[(resource, rows)]))
    ]
    spans = [json.loads(text) for text in found if '"ph":"X"' in text]
    assert {e["tid"] for e in spans} == {1}
    assert all(one["dur"] >= other["dur"] for one, other in pairwise([spans[-1], spans[0]]))
