"""What lines of OTLP JSON hold, as columns: a row for each span, texts only once for all spans alike.

A line is one export request. It is decoded by msgspec into nothing but the fields that are looked at: that is what makes
ten million spans a matter of seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiobs import names
from aiobs.chaos.containment.marks import marks_of
from aiobs.chaos.containment.otlp_json import FAILED, FAULT, decoder, fault_spans, kind_of, text_of
from aiobs.errors import NotEnabledError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shape = tuple["str | None", ...]
"""Name, kind, whether it failed and whether it was cut off ("true", "false"), and the asked attributes, of spans that are
alike in all of these."""
FIXED = ("span.name", "span.kind", "error", names.TRUNCATED)
"""What a shape begins with."""

_TOLD = f'"{FAULT}'.encode()
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Asked:
    """Attributes that somebody wants to know.

    Attributes:
        texts: compared with patterns, or told apart.
        numbers: looked at as numbers.
        marks: only compared with each other, as 64-bit marks: there may be as many values as spans.
    """

    texts: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass
class Columns:
    """Spans by columns.

    Attributes:
        start: Unix nanoseconds.
        duration: seconds; NaN for a span without an end.
        key: a mark of its ids and start; copies have the same.
        shape: its place in `shapes`.
        numbers, marks: one column for each that was asked, NaN and 0 where a span has none.
        faults: fault spans, as they were told; they are in no column.
        lines, unreadable: lines read, and those of them that are no OTLP JSON.
        timeless: spans without a start, which cannot be placed.
    """

    start: NDArray[Any]
    duration: NDArray[Any]
    key: NDArray[Any]
    shape: NDArray[Any]
    numbers: list[NDArray[Any]]
    marks: list[NDArray[Any]]
    shapes: list[Shape] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    lines: int = 0
    unreadable: int = 0
    timeless: int = 0


def columns(lines: Iterable[bytes], asked: Asked) -> Columns:
    """The spans of `lines`.

    Raises:
        NotEnabledError: msgspec or NumPy is not installed.
    """
    try:
        import msgspec
        import numpy as np
    except ImportError:
        raise NotEnabledError("the verdict", "containment") from None
    decode = decoder().decode
    rows = _Rows(asked)
    read = unreadable = 0
    for line in lines:
        if not line.strip():
            continue
        read += 1
        try:
            told = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            unreadable += 1
            continue
        rows.take(told)
        if _TOLD in line:
            rows.faults += fault_spans(line)
    rows.flush()
    parts = rows.parts or [rows.empty()]
    joined = [np.concatenate([part[place] for part in parts]) for place in range(len(parts[0]))]
    middle = 4 + len(asked.numbers)
    return Columns(
        joined[0], joined[1], joined[2], joined[3], joined[4:middle], joined[middle:],
        list(rows.shapes), rows.faults, read, unreadable, rows.timeless,
    )  # fmt: skip


class _Rows:
    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.shapes: dict[Shape, int] = {}
        self.parts: list[list[Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.timeless = 0
        self._texts = {key: place for place, key in enumerate(asked.texts)}
        self._numbers = {key: place for place, key in enumerate(asked.numbers)}
        self._marks = {key: place for place, key in enumerate(asked.marks)}
        self._looked = frozenset((*asked.texts, *asked.numbers, *asked.marks, names.TRUNCATED))
        self._clear()

    def _clear(self) -> None:
        self._start: list[int] = []
        self._end: list[int] = []
        self._ids: list[str] = []
        self._shape: list[int] = []
        self._number_lists: list[list[float]] = [[] for _ in self.asked.numbers]
        self._mark_lists: list[list[str]] = [[] for _ in self.asked.marks]

    def take(self, line: Any) -> None:
        looked = self._looked
        for group in line.resourceSpans or ():
            about: dict[str, str] = {}
            for pair in (group.resource.attributes if group.resource else None) or ():
                if pair.key in looked and pair.value is not None and (text := text_of(pair.value)) is not None:
                    about[pair.key] = text
            for scope in group.scopeSpans or ():
                for span in scope.spans or ():
                    self._span(span, about)
        if len(self._start) >= _CHUNK:
            self.flush()

    def _span(self, span: Any, about: dict[str, str]) -> None:
        name = span.name or ""
        # An announcement of a span that is still open is no request, and no fault.
        if name.startswith(FAULT) or name.endswith(names.STARTED_SUFFIX):
            return
        try:
            start, end = int(span.startTimeUnixNano or 0), int(span.endTimeUnixNano or 0)
        except ValueError:
            start = end = 0
        if not 0 < start < 1 << 63 or not 0 <= end < 1 << 63:
            self.timeless += 1
            return
        looked, found = self._looked, about
        for pair in span.attributes or ():
            # What the resource says comes first.
            if pair.key in looked and pair.key not in about and pair.value is not None:
                text = text_of(pair.value)
                if text is not None:
                    if found is about:
                        found = dict(about)
                    found[pair.key] = text
        truncated = not end or found.get(names.TRUNCATED) == "true"
        failed = truncated or (span.status is not None and span.status.code in FAILED)
        like = (
            name,
            kind_of(span.kind),
            "true" if failed else "false",
            "true" if truncated else "false",
            *[found.get(key) for key in self._texts],
        )
        shapes = self.shapes
        self._shape.append(shapes.setdefault(like, len(shapes)))
        self._start.append(start)
        self._end.append(end)
        self._ids.append((span.traceId or "") + (span.spanId or ""))
        for key, place in self._numbers.items():
            self._number_lists[place].append(_number(found.get(key)))
        for key, place in self._marks.items():
            self._mark_lists[place].append(found.get(key, ""))

    def flush(self) -> None:
        """Put away what was taken, in as little room as it needs."""
        import numpy as np

        if not self._start:
            return
        start, end = np.array(self._start, np.int64), np.array(self._end, np.int64)
        duration = np.where(end == 0, np.nan, (end - start) / 1e9)
        key = marks_of(self._ids)
        # Without ids nothing can be called a copy.
        key = np.where(key == 0, np.arange(len(key), dtype=np.uint64) + np.uint64(len(self.parts) << 32), key)
        key ^= start.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self.parts.append([
            start, duration, key, np.array(self._shape, np.int32),
            *[np.array(column) for column in self._number_lists], *[marks_of(column) for column in self._mark_lists],
        ])  # fmt: skip
        self._clear()

    def empty(self) -> list[Any]:
        """No rows at all."""
        import numpy as np

        kinds: list[Any] = [np.int64, np.float64, np.uint64, np.int32]
        kinds += [np.float64] * len(self.asked.numbers) + [np.uint64] * len(self.asked.marks)
        return [np.empty(0, kind) for kind in kinds]


def _number(text: str | None) -> float:
    try:
        return float("nan") if text is None else float(text)
    except ValueError:
        return float("nan")
