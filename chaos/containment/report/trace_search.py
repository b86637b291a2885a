"""Spans of a few wanted traces, found in run folders of any size: lines are searched as bytes, and only those that
hold something wanted are parsed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiobs import names

CHUNK = 8 << 20
SPANS = 2000
"""Spans of one trace that are looked at; more cannot be shown."""

_START = re.compile(rb'"startTimeUnixNano"\s*:\s*"?(\d+)')
_TRACE = re.compile(rb'"traceId"\s*:\s*"([^"]+)"')


@dataclass(frozen=True)
class TraceSpan:
    """A span as the report shows it.

    Attributes:
        told: attributes of its resource and its own, as texts; ``span.name``, ``span.kind`` and ``error`` too.
        error: what went wrong, "" where nothing did.
        hit: a fault acted on it.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    told: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    hit: bool = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9


def starting_at(files: Sequence[Path], moments: Collection[int]) -> list[TraceSpan]:
    """Every span that began at one of `moments` (Unix ns).

    Raises:
        OSError: a file cannot be read.
    """
    wanted = {str(moment).encode() for moment in moments}
    return list(_spans(files, _START, wanted, lambda span: int(span.get("startTimeUnixNano") or 0) in moments))


def of_traces(files: Sequence[Path], trace_ids: Collection[str]) -> dict[str, list[TraceSpan]]:
    """The spans of each trace, by start; :data:`SPANS` of each at most.

    Raises:
        OSError: a file cannot be read.
    """
    found: dict[str, dict[str, TraceSpan]] = {trace_id: {} for trace_id in trace_ids}
    wanted = {trace_id.encode() for trace_id in trace_ids}
    for span in _spans(files, _TRACE, wanted, lambda span: span.get("traceId") in found):
        if len(found[span.trace_id]) < SPANS:
            found[span.trace_id].setdefault(span.span_id, span)
    return {
        trace_id: sorted(spans.values(), key=lambda it: (it.start_ns, -it.end_ns)) for trace_id, spans in found.items()
    }


def _spans(
    files: Sequence[Path], key: re.Pattern[bytes], wanted: set[bytes], fits: Callable[[Mapping[str, Any]], bool]
) -> Iterator[TraceSpan]:
    if not wanted:
        return
    for path in files:
        for line in _lines(path, key, wanted):
            try:
                groups = json.loads(line).get("resourceSpans") or ()
                for group in groups:
                    about = texts((group.get("resource") or {}).get("attributes"))
                    for scope in group.get("scopeSpans") or ():
                        for span in scope.get("spans") or ():
                            if fits(span) and not str(span.get("name")).endswith(names.STARTED_SUFFIX):
                                yield _shown(span, about)
            except (ValueError, AttributeError, TypeError):
                continue  # a line cut short, or none of OTLP: the verdict leaves it out too


def _lines(path: Path, key: re.Pattern[bytes], wanted: set[bytes]) -> Iterator[bytes]:
    rest = b""
    with path.open("rb") as file:
        while True:
            read = file.read(CHUNK)
            chunk, rest = rest + read, b""
            if read:
                cut = chunk.rfind(b"\n") + 1
                chunk, rest = chunk[:cut], chunk[cut:]
            # Most chunks hold nothing wanted: one pass in C tells.
            if not wanted.isdisjoint(key.findall(chunk)):
                for line in chunk.splitlines():
                    if not wanted.isdisjoint(key.findall(line)):
                        yield line
            if not read:
                return


def texts(pairs: Any) -> dict[str, str]:
    """OTLP JSON attributes as texts; lists and maps are left out."""
    found = {}
    for pair in pairs or ():
        value = next(iter((pair.get("value") or {}).values()), None)
        if isinstance(value, (str, int, float)):
            found[str(pair.get("key"))] = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return found


_KINDS = {"1": "internal", "2": "server", "3": "client", "4": "producer", "5": "consumer"}


def _shown(span: Mapping[str, Any], about: Mapping[str, str]) -> TraceSpan:
    own = texts(span.get("attributes"))
    kind = str(span.get("kind") or 1)
    events = span.get("events") or ()
    error = _error(span, own, events)
    plain = {
        "span.name": str(span.get("name")), "span.kind": _KINDS.get(kind, kind.lower().removeprefix("span_kind_")),
        "error": "true" if error else "false",
    }  # fmt: skip
    return TraceSpan(
        str(span["traceId"]), str(span.get("spanId")), str(span.get("parentSpanId") or ""), str(span.get("name")),
        int(span["startTimeUnixNano"]), int(span.get("endTimeUnixNano") or span["startTimeUnixNano"]),
        {**own, **about, **plain},
        error,
        own.get(names.FAULT_INJECTED) == "true" or any(it.get("name") == names.EVENT_FAULT_HIT for it in events),
    )  # fmt: skip


def _error(span: Mapping[str, Any], own: Mapping[str, str], events: Sequence[Mapping[str, Any]]) -> str:
    status = span.get("status") or {}
    failed = str(status.get("code")) in ("2", "STATUS_CODE_ERROR")
    cut = own.get(names.TRUNCATED) == "true"
    if not failed and not cut:
        return ""
    thrown = [texts(it.get("attributes")) for it in events if it.get("name") == names.EVENT_EXCEPTION]
    told = [status.get("message"), *[_thrown(it) for it in thrown], own.get(names.ERROR_TYPE)]
    code = own.get(names.HTTP_STATUS)
    told.append(f"status {code}" if code else "")
    return next(
        (str(it).strip(" :") for it in told if it and str(it).strip(" :")),
        "ended with its process" if cut else "failed",
    )


def _thrown(told: Mapping[str, str]) -> str:
    parts = (told.get(names.EXCEPTION_TYPE), told.get(names.EXCEPTION_MESSAGE))
    return ": ".join(it for it in parts if it and it.strip())
