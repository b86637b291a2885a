"""Spans as events of the Chrome trace format."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator, Mapping
from typing import Any
from zlib import crc32

from aiobs import names
from aiobs.telemetry import STATUS_ERROR, Batch, Resource, Row

from . import legal
from .json_values import number, quoted

_BEFORE_NS = 30 * 86400 * 10**9
"""Times count from this long before the first span: viewers read them as floats, which hold a nanosecond only
near zero, and spans that began earlier (of a whole process, say) must not get negative times."""

_KEPT = 2000
_REMEMBERED_SPANS = 20_000


def origin_event(start_ns: int) -> str:
    """The first event of a file: it says from when times count."""
    return f'{{"ph":"M","pid":0,"name":"aiobs_origin","args":{{"unix_ns":{max(start_ns - _BEFORE_NS, 0)}}}}}'


def origin_of(head: bytes) -> int | None:
    """The start that was given to :func:`origin_event`, from the beginning of a file; None where it is missing."""
    _, found, rest = head.partition(b'"unix_ns":')
    digits = rest.partition(b"}")[0]
    return int(digits) + _BEFORE_NS if found and digits.isdigit() else None


class _Interval:
    """A span on a row, with those inside it."""

    __slots__ = ("end", "inner", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.inner = _Row()


class _Row:
    """Intervals side by side, in order; those inside them hang below, so all of them nest."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._intervals: list[_Interval] = []

    def place(self, start: int, end: int) -> bool:
        """Put a span here; False where it would cut across another."""
        first = bisect_right(self._starts, start)
        if first and self._intervals[first - 1].end > start:
            outer = self._intervals[first - 1]
            if end <= outer.end:
                return outer.inner.place(start, end)
            if outer.start < start:
                return False
            first -= 1  # both start here, and the new one is longer
        last = bisect_left(self._starts, end, lo=first)
        if last > first and self._intervals[last - 1].end > end:
            return False
        made = _Interval(start, end)
        made.inner._starts, made.inner._intervals = self._starts[first:last], self._intervals[first:last]
        self._starts[first:last], self._intervals[first:last] = [start], [made]
        if len(self._starts) > _KEPT:
            del self._starts[: _KEPT // 2], self._intervals[: _KEPT // 2]
        return True


class Timeline:
    """Turns batches into events, and knows which process and row a span belongs to.

    Args:
        start_ns: when the first span of the file started (Unix time).
    """

    def __init__(self, start_ns: int) -> None:
        self._origin = max(start_ns - _BEFORE_NS, 0)
        self._processes: dict[Resource, int] = {}
        self._names: dict[int, str] = {}
        self._rows: dict[tuple[int, str], list[_Row]] = {}
        self._where: dict[bytes, str] = {}

    def events(self, batch: Batch) -> Iterator[str]:
        """The events of a batch's spans, as JSON."""
        for resource, rows in batch.spans:
            process = yield from self._process(resource)
            # A span before those inside it, so that they find their place in few steps.
            for row in sorted(rows, key=lambda row: (row[4], -row[5])):
                yield from self._span(process, row)

    def _process(self, resource: Resource) -> Generator[str, None, int]:
        """The number of a process; a new one, or a new name of one, is announced."""
        process = self._processes.get(resource)
        if process is None:
            process = self._processes[resource] = _process_number(resource)
            name = _process_name(resource)
            if self._names.get(process) != name:
                self._names[process] = name
                rank = resource.attributes.get(names.RANK)
                yield _metadata(process, 0, "process_name", f'"name":{quoted(name)}')
                if isinstance(rank, int):
                    yield _metadata(process, 0, "process_sort_index", f'"sort_index":{int(rank)}')
        return process

    def _span(self, process: int, row: Row) -> Iterator[str]:
        shape, trace, span, parent, start, end, values, extra = row
        end = max(start, end)
        attributes = legal.merged(shape.keys, values, extra.attributes if extra else {})
        thread = yield from self._thread(process, legal.key(attributes.get(names.THREAD_ID, "")), start, end)
        where = f'"pid":{process},"tid":{thread},"ts":{self._time(start)}'
        ids = {"trace_id": trace.hex(), "span_id": span.hex(), "parent_span_id": parent.hex()}
        failed = extra is not None and extra.status == STATUS_ERROR
        if failed and extra and extra.message:
            attributes = {**attributes, "error": extra.message}
        color = ',"cname":"terrible"' if failed else ""
        yield (
            f'{{"ph":"X",{where},"dur":{_microseconds(end - start)},"name":{quoted(shape.name)},'
            f'"cat":{quoted(shape.scope or "span")}{color},"args":{_arguments({**attributes, **ids})}}}'
        )
        if len(self._where) >= _REMEMBERED_SPANS:
            self._where.clear()
        self._where[span] = where
        if extra is None:
            return
        for event in extra.events:
            yield (
                f'{{"ph":"i","s":"t","pid":{process},"tid":{thread},"ts":{self._time(event.time_ns)},'
                f'"name":{quoted(event.name)},"args":{_arguments(event.attributes)}}}'
            )
        for index, link in enumerate(extra.links):
            if link.span_id in self._where:
                arrow = f'"cat":"link","name":"link","id":"{span.hex()}-{index}"'
                yield f'{{"ph":"s",{self._where[link.span_id]},{arrow}}}'
                yield f'{{"ph":"f","bp":"e",{where},{arrow}}}'

    def _thread(self, process: int, thread: str, start: int, end: int) -> Generator[str, None, int]:
        """The number of a row where the span nests; a new one is announced."""
        rows = self._rows.setdefault((process, thread), [])
        for index, row in enumerate(rows):
            if row.place(start, end):
                return _thread_number(thread, index)
        rows.append(_Row())
        rows[-1].place(start, end)
        index = len(rows) - 1
        made = _thread_number(thread, index)
        name = (f"thread {thread}" if thread else "spans") + (f" ({index + 1})" if index else "")
        yield _metadata(process, made, "thread_name", f'"name":{quoted(name)}')
        return made

    def _time(self, time_ns: int) -> str:
        return _microseconds(max(legal.unsigned(time_ns) - self._origin, 0))


def _process_number(resource: Resource) -> int:
    """The same for the same process, also after a restart of the agent."""
    found = resource.attributes
    own = [found.get(key) for key in (names.HOST_NAME, names.PROCESS_PID, names.SERVICE_INSTANCE_ID)]
    identity = own if any(own) else sorted((legal.key(key), legal.key(value)) for key, value in found.items())
    return crc32(repr(identity).encode("utf-8", "replace")) & 0x7FFFFFFF or 1


def _process_name(resource: Resource) -> str:
    found = resource.attributes
    parts = [legal.text(found.get(names.SERVICE_NAME, "process"))]
    if names.RANK in found:
        parts.append(f"rank {legal.key(found[names.RANK])}")
    if names.PROCESS_PID in found:
        parts.append(f"pid {legal.key(found[names.PROCESS_PID])}")
    if names.HOST_NAME in found:
        parts.append(f"on {legal.key(found[names.HOST_NAME])}")
    return " ".join(parts)


def _thread_number(thread: str, index: int) -> int:
    return (crc32(thread.encode("utf-8", "replace")) % 100_000 + 1) * 100 + index if thread else index + 1


def _metadata(process: int, thread: int, name: str, arguments: str) -> str:
    return f'{{"ph":"M","pid":{process},"tid":{thread},"name":"{name}","args":{{{arguments}}}}}'


def _microseconds(nanoseconds: int) -> str:
    whole, rest = divmod(nanoseconds, 1000)
    return f"{whole}.{rest:03d}" if rest else str(whole)


def _arguments(values: Mapping[Any, Any]) -> str:
    return "{" + ",".join([f"{quoted(key)}:{_json(value)}" for key, value in values.items()]) + "}"


def _json(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value)) if abs(value) < 1 << 53 else quoted(legal.integer_text(value))
    return "null" if value is None else quoted(legal.one_text(value))
