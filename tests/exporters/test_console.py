"""The console: lines a person can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiobs.errors import ExportError
from aiobs.exporters import console
from aiobs.telemetry import Batch, Extra, HistogramPoint, LogRow, Metric, Point, Resource, Route, Row, Shape, SpanEvent


def batch() -> Batch:
    resource = Resource({"service.name": "trainer", "aiobs.rank": 2})
    extra = Extra(2, "out of memory", {}, [SpanEvent("oom", 10**18, {"bytes": 5})])
    row: Row = (
        Shape("forward", keys=("step",), types="q"),
        b"t" * 16,
        b"s" * 8,
        b"",
        10**18,
        10**18 + 12_340_000,
        (3,),
        extra,
    )
    histogram = HistogramPoint({}, 1, 2, 3, 1.5, 0.1, 1.0, (0.5,), [1, 2])
    metrics = [
        Metric("loss", "1", "", "gauge", [Point({"k": "v"}, 1, 2, 0.25)]),
        Metric("h", "s", "", "histogram", [histogram]),
    ]
    return Batch([(resource, [row])], [(resource, [LogRow(10**18, "hello\nworld")])], [(resource, metrics)])


def test_a_span_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    exporter = console.create(Route("r", environment={"AIOBS_CONSOLE_FILE": str(path)}))
    exporter.write(batch())
    exporter.close()
    span, event, log, gauge, histogram = path.read_text().splitlines()
    assert span.endswith("trainer[2]  forward  12.3 ms  74747474/73737373  ERROR out of memory  step=3")
    assert event.endswith("trainer[2]  · oom  bytes=5")
    assert log.endswith("trainer[2]  INFO  hello world")
    assert gauge.endswith("trainer[2]  loss (1)  {k=v} 0.25")
    assert histogram.endswith("trainer[2]  h (s)  n=3 sum=1.5")


def test_without_a_file_it_is_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    console.create(Route("r")).write(batch())
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 5


def test_a_place_that_cannot_be_written_is_an_export_error(tmp_path: Path) -> None:
    exporter = console.create(Route("r", environment={"AIOBS_CONSOLE_FILE": str(tmp_path)}))
    with pytest.raises(ExportError, match="cannot be written"):
        exporter.write(batch())


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1.00 µs"),
        (12_345, "12.3 µs"),
        (123_456_789, "123 ms"),
        (61 * 10**9, "61.0 s"),
    ],
)
def test_durations_have_three_digits(nanoseconds: int, text: str) -> None:
    assert console.duration(nanoseconds) == text
