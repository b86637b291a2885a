"""The exporter ``console``: one readable line for each span and log record.

The lines go to standard error, or to the file that ``AIOBS_CONSOLE_FILE`` names.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from aiobs import names
from aiobs.errors import ExportError
from aiobs.telemetry import STATUS_ERROR, Batch, HistogramPoint, LogRow, Metric, Resource, Route, Row

from . import legal
from .append import AppendFile
from .protobuf_logs import severity_text

_VALUE_CHARACTERS = 200


def create(route: Route) -> ConsoleExporter:
    """The exporter for a route."""
    path = route.environment.get("AIOBS_CONSOLE_FILE", "")
    return ConsoleExporter(AppendFile(Path(path)) if path else None)


class ConsoleExporter:
    """A :class:`~aiobs.ports.LocalExporter`; without a `file` it writes to standard error, and takes nothing back."""

    def __init__(self, file: AppendFile | None = None) -> None:
        self._file = file
        self._first = file.size if file else 0

    def write(self, batch: Batch) -> None:
        """Write a line for each span and log record, and for each metric's newest points.

        Raises:
            ExportError: the file or standard error is not writable.
        """
        text = "".join([line + "\n" for line in lines(batch)])
        try:
            if self._file is not None:
                self._file.append(text.encode())
            elif sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()
        except (OSError, ValueError) as error:
            raise ExportError(f"the console cannot be written: {error}") from error

    def mark(self) -> object:
        """Size of the file; None for standard error."""
        return self._file.size if self._file is not None else None

    def rewind(self, mark: object) -> None:
        """Cut the file back."""
        if self._file is not None:
            self._file.cut(mark if isinstance(mark, int) else self._first)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def lines(batch: Batch) -> Iterator[str]:
    """`batch` as text: local time, who, what, how long, and the attributes."""
    for resource, rows in batch.spans:
        who = _who(resource)
        for row in rows:
            yield from _span(who, row)
    for resource, records in batch.logs:
        who = _who(resource)
        for record in records:
            yield _log(who, record)
    for resource, metrics in batch.metrics:
        who = _who(resource)
        for metric in metrics:
            yield _metric(who, metric)


def duration(nanoseconds: int) -> str:
    """A duration with three significant digits and a fitting unit."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if nanoseconds >= size:
            number = nanoseconds / size
            return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"
    return f"{nanoseconds} ns"


def _who(resource: Resource) -> str:
    service = _one_line(resource.attributes.get(names.SERVICE_NAME, "unknown_service"))
    rank = resource.attributes.get(names.RANK)
    who = service if rank is None else f"{service}[{legal.key(rank)}]"
    return f"{who} (fake GPU)" if resource.attributes.get(names.GPU_FAKE) else who


def _span(who: str, row: Row) -> Iterator[str]:
    shape, trace, span, _, start, end, values, extra = row
    attributes = legal.merged(shape.keys, values, extra.attributes if extra else {})
    ids = f"{trace.hex()[:8]}/{span.hex()[:8]}"
    parts = [_clock(start), who, _one_line(shape.name), duration(max(end - start, 0)), ids]
    if extra is not None and extra.status == STATUS_ERROR:
        parts.append(f"ERROR {_one_line(extra.message)}".rstrip())
    yield "  ".join([*parts, _pairs(attributes)]).rstrip()
    for event in extra.events if extra else ():
        yield "  ".join((_clock(event.time_ns), who, f"· {_one_line(event.name)}", _pairs(event.attributes))).rstrip()


def _log(who: str, record: LogRow) -> str:
    body = "" if record.body is None else _one_line(record.body)
    parts = (_clock(record.time_ns), who, severity_text(record.severity), _one_line(record.event_name), body)
    return "  ".join([part for part in (*parts, _pairs(record.attributes)) if part])


def _metric(who: str, metric: Metric) -> str:
    shown = []
    for point in metric.points[:8]:
        value = legal.number(point.sum if isinstance(point, HistogramPoint) else point.value)
        number = f"n={point.count} sum={value:g}" if isinstance(point, HistogramPoint) else f"{value:g}"
        shown.append(f"{{{_pairs(point.attributes)}}} {number}" if point.attributes else number)
    time_ns = metric.points[0].time_ns if metric.points else time.time_ns()
    more = f"  (+{len(metric.points) - 8})" if len(metric.points) > 8 else ""
    return f"{_clock(time_ns)}  {who}  {_one_line(metric.name)} ({_one_line(metric.unit)})  {'  '.join(shown)}{more}"


def _clock(time_ns: int) -> str:
    seconds, rest = divmod(legal.unsigned(time_ns), 10**9)
    try:
        return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{rest // 10**6:03d}"
    except (OverflowError, ValueError, OSError):
        return "--:--:--.---"


def _pairs(attributes: Mapping[str, object]) -> str:
    return " ".join([f"{_one_line(key)}={_one_line(value)}" for key, value in attributes.items()])


def _one_line(value: object) -> str:
    """Any value on one line, bounded, without control characters (which could steer a terminal)."""
    start = legal.one_text(value)[: _VALUE_CHARACTERS + 1]
    text = "".join([character if character.isprintable() else " " for character in start])
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 1] + "…"
