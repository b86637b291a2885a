"""Run folders: written by one, readable by all, and what happens to them on a bad day."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiobs.errors import ExportError, RecordError, SettingError
from aiobs.exporters import jsonl
from aiobs.exporters.folder import Damage, read_batches
from aiobs.telemetry import (
    Batch,
    Exemplar,
    Extra,
    HistogramPoint,
    Link,
    LogRow,
    Metric,
    Point,
    Resource,
    Route,
    Row,
    Shape,
    SpanEvent,
)


def rows(*names: str) -> list[Row]:
    return [(Shape(name), b"t" * 16, name.encode().ljust(8, b"_"), b"", 1, 2, (), None) for name in names]


def spans(*names: str) -> Batch:
    return Batch(spans=[(Resource({"service.name": "trainer"}), rows(*names))])


def names(folder: Path, damage: Damage | None = None) -> list[str]:
    return [
        row[0].name
        for _, batch in read_batches(folder, damage or Damage())
        for _, found in batch.spans
        for row in found
    ]


def exporter(folder: Path) -> jsonl.JsonlExporter:
    return jsonl.create(Route("run-7", run_name="digits", run_dir=str(folder)))


def test_the_folder_says_which_run_it_is(tmp_path: Path) -> None:
    made = exporter(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    made.write(spans("one"))
    made.close()
    said = json.loads((tmp_path / "a" / "b" / "run.json").read_text())
    assert (said["format"], said["run_id"], said["run_name"]) == (1, "run-7", "digits")
    before = (tmp_path / "a" / "b" / "run.json").read_bytes()
    exporter(tmp_path / "a" / "b").mark()
    assert (tmp_path / "a" / "b" / "run.json").read_bytes() == before


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"q": 2**62, "d": 0.1, "b": False, "s": "ü\n", "j": [1, {"k": None}], "raw": b"\0\xff"}
    extra = Extra(2, "bad", {}, [SpanEvent("e", 5, {"x": 1})], [Link(b"l" * 16, b"m" * 8, {"y": 2})], "k=v", 0x300)
    row: Row = (
        Shape("step", 3, "scope", "1.0", tuple(attributes), "qdbsjj"),
        b"t" * 16,
        b"s" * 8,
        b"p" * 8,
        2**60,
        2**60 + 1,
        tuple(attributes.values()),
        extra,
    )
    histogram = HistogramPoint(
        {"a": 1}, 1, 2, 3, 1.5, 0.1, 1.0, (0.5,), [1, 2], [Exemplar(0.3, 9, b"t" * 16, b"s" * 8)]
    )
    metrics = [
        Metric("c", "1", "d", "sum", [Point({}, 1, 2, 3)]),
        Metric("u", "1", "d", "updown", [Point({}, 1, 2, -3)]),
        Metric("g", "s", "d", "gauge", [Point({"x": "y"}, 1, 2, 0.5)]),
        Metric("h", "s", "d", "histogram", [histogram]),
    ]
    logs = [LogRow(7, {"text": "hi"}, "event", 17, {"a": 1}, b"t" * 16, b"s" * 8)]
    resource = Resource({"service.name": "x", "n": 1})
    made = exporter(tmp_path)
    made.write(Batch([(resource, [row])], [(resource, logs)], [(resource, metrics)]))
    made.close()
    found = dict(read_batches(tmp_path, Damage()))
    ((found_resource, (found_row,)),) = found["traces"].spans
    assert dict(found_resource.attributes) == dict(resource.attributes)
    assert (found_row[0].name, found_row[0].kind, found_row[0].scope, found_row[0].version) == (
        "step",
        3,
        "scope",
        "1.0",
    )
    assert (found_row[0].keys, found_row[0].types) == (tuple(attributes), "qdbsjj")
    assert found_row[1:] == row[1:]
    assert found["logs"].logs[0][1] == logs
    assert found["metrics"].metrics[0][1] == metrics


def test_spans_alike_share_a_shape_and_a_resource(tmp_path: Path) -> None:
    made = exporter(tmp_path)
    made.write(spans("a"))
    made.write(spans("a"))
    made.close()
    (_, first), (_, second) = read_batches(tmp_path, Damage())
    assert first.spans[0][0] is second.spans[0][0]
    assert first.spans[0][1][0][0] is second.spans[0][1][0][0]


def test_broken_lines_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    made = exporter(tmp_path)
    made.write(spans("one"))
    made.close()
    with (tmp_path / "traces.jsonl").open("ab") as file:
        file.write(b'\n{"resourceSpans":[{"scopeSpans":[{"spans":[{}]}]}]}\n[]\n"x"\n\xff\xfe\n{"resourceSpans":7}\n')
        file.write(b'{"resourceSpans":[{"scopeSp')
    second = exporter(tmp_path)
    second.write(spans("two"))
    second.close()
    damage = Damage()
    assert names(tmp_path, damage) == ["one", "two"]
    assert damage.lines == 6


def test_a_file_of_the_collector_is_read(tmp_path: Path) -> None:
    line = {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]},
                "schemaUrl": "https://opentelemetry.io/schemas/1.30.0",
                "scopeSpans": [
                    {
                        "scope": {},
                        "spans": [
                            {
                                "traceId": "5B8EFFF798038103D269B633813FC60C",
                                "spanId": "EEE19B7EC3C1B174",
                                "parentSpanId": "",
                                "name": "n",
                                "startTimeUnixNano": 1544712660000000000,
                                "endTimeUnixNano": "1544712661000000000",
                                "attributes": [
                                    {"key": "i", "value": {"intValue": 5}},
                                    {"key": "l", "value": {"arrayValue": {}}},
                                    {"key": "m", "value": {"kvlistValue": {"values": [{"key": "x", "value": {"doubleValue": "NaN"}}]}}},
                                    {"key": "e", "value": {}},
                                    {"key": "none"},
                                ],
                                "status": {},
                            }
                        ],
                    }
                ],
            }
        ]
    }  # fmt: skip
    delta = {"name": "d", "sum": {"aggregationTemporality": 1, "dataPoints": []}}
    summary = {"name": "s", "summary": {"dataPoints": []}}
    good = {"name": "g", "gauge": {"dataPoints": [{"asInt": 3, "timeUnixNano": "1"}]}}
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(line) + "\n")
    metrics = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [delta, summary, good]}]}]}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    damage = Damage()
    found = dict(read_batches(tmp_path, damage))
    (row,) = found["traces"].spans[0][1]
    assert (row[1].hex(), row[3], row[5] - row[4]) == ("5b8efff798038103d269b633813fc60c", b"", 10**9)
    assert row[6][:2] == (5, [])
    assert row[6][3:] == (None, None)
    assert [metric.name for metric in found["metrics"].metrics[0][1]] == ["g"]
    assert (damage.metrics, damage.lines) == (2, 0)
    assert [signal for signal, _ in read_batches(path, Damage())] == ["traces"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such run folder"):
        list(read_batches(tmp_path / "none", Damage()))
    with pytest.raises(SettingError, match="AIOBS_RUN_DIR"):
        jsonl.create(Route("r"))


def test_two_writers_of_one_folder_do_not_share_files(tmp_path: Path) -> None:
    first, second = exporter(tmp_path), exporter(tmp_path)
    for number in range(20):
        first.write(spans(f"a{number}"))
        second.write(spans(f"b{number}"))
    mark = second.mark()
    second.write(spans("lost"))
    second.rewind(mark)
    first.close()
    second.close()
    assert sorted(names(tmp_path)) == sorted([f"{who}{number}" for who in "ab" for number in range(20)])
    assert (tmp_path / "traces-2.jsonl").exists()


def test_a_mark_of_files_that_somebody_else_now_owns_is_left_alone(tmp_path: Path) -> None:
    first = exporter(tmp_path)
    mark = first.mark()
    first.write(spans("kept"))
    second = exporter(tmp_path)
    second.rewind(mark)
    second.write(spans("more"))
    first.close()
    second.close()
    assert sorted(names(tmp_path)) == ["kept", "more"]


def test_a_folder_deleted_under_way_is_made_again(tmp_path: Path) -> None:
    made = exporter(tmp_path / "run")
    made.write(spans("one"))
    shutil.rmtree(tmp_path / "run")
    made.write(spans("two"))
    made.close()
    assert names(tmp_path / "run") == ["two"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = exporter(tmp_path / "file" / "run")
    assert made.mark() is None
    with pytest.raises(ExportError, match="file/run: cannot be written: Not a directory"):
        made.write(spans("one"))
    made.close()


FULL = """
import json, resource, signal, sys
from pathlib import Path
from aiobs.errors import ExportError
from aiobs.exporters.jsonl import JsonlExporter
from aiobs.telemetry import Batch, LogRow, Resource, Shape
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
exporter = JsonlExporter(Path(sys.argv[1]), {"run_id": "r"})
def batch(name, text):
    row = (Shape("s", keys=("x",), types="s"), b"t" * 16, b"s" * 8, b"", 1, 2, (name,), None)
    return Batch([(Resource({}), [row])], [(Resource({}), [LogRow(1, text)])])
exporter.write(batch("first", "x"))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    exporter.write(batch("second", "x" * 20_000))
except ExportError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
exporter.write(batch("third", "x"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_disk_that_is_full_leaves_whole_batches_only(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large" in done.stdout
    found = [batch for _, batch in read_batches(tmp_path, Damage())]
    assert [row[6][0] for batch in found for _, group in batch.spans for row in group] == ["first", "third"]
    assert [record.body for batch in found for _, group in batch.logs for record in group] == ["x", "x"]


KILLED = """
import sys
from pathlib import Path
from aiobs.exporters.jsonl import JsonlExporter
from aiobs.telemetry import Batch, Resource, Shape
exporter = JsonlExporter(Path(sys.argv[1]), {"run_id": "r"})
shape = Shape("s", keys=("n",), types="q")
for number in range(10**9):
    rows = [(shape, b"t" * 16, b"s" * 8, b"", 1, 2, (number,), None)] * 3000
    exporter.write(Batch(spans=[(Resource({}), rows)]))
    if number == 2:
        print("going", flush=True)
"""


def test_a_writer_that_is_killed_leaves_lines_that_can_be_read_and_a_free_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    made = exporter(tmp_path)
    made.write(spans("after"))
    made.close()
    damage = Damage()
    found = list(read_batches(tmp_path, damage))
    assert damage.lines <= 1
    assert found[-1][1].spans[0][1][0][0].name == "after"
    assert [batch.spans[0][1][0][6][0] for _, batch in found[:-1]] == list(range(len(found) - 1))
    assert not (tmp_path / "traces-2.jsonl").exists()


def test_no_descriptor_leaks(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        made = exporter(tmp_path / str(number))
        made.write(spans("one"))
        made.close()
    assert len(os.listdir("/proc/self/fd")) == before
