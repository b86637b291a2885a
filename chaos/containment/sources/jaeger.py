"""Traces out of Jaeger, over its v3 query API, as a run folder.

A search gives so many traces at most and does not say that there were more: a time in which it gave as many is halved
and asked again. Where that cannot go on, the verdict is refused: with less than all it could not be trusted.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aiobs.errors import PlanError, RecordError

DEPTH = 1000
"""Traces asked for at a time."""
_SHORTEST_NS = 10**6
_PIECE_NS = 10 * 10**9
_TIMEOUT_S = 120.0


def download(url: str, folder: Path, first_ns: int, end_ns: int, *, services: Sequence[str] = (), depth: int = DEPTH) -> int:  # fmt: skip
    """Write all spans of that time as ``traces.jsonl`` into `folder`; returns how many bodies there were.

    Args:
        services: those asked for; by default all that Jaeger knows.

    Raises:
        PlanError: `url` is none.
        RecordError: Jaeger cannot be asked, does not give all, or has nothing.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PlanError("jaeger", url, "jaeger:http://HOST:PORT")
    base = url.rstrip("/")
    known = [*services] or [str(it) for it in (_ask(base, "services", {}) or {}).get("services") or ()]
    seen: set[str] = set()
    count = 0
    with (folder / "traces.jsonl").open("wb") as file:
        for service in known:
            for begin in range(first_ns, end_ns, _PIECE_NS):
                for body in _traces(base, service, begin, min(begin + _PIECE_NS, end_ns), depth):
                    kept = _new(body, seen)
                    if kept:
                        file.write(json.dumps({"resourceSpans": kept}, separators=(",", ":")).encode() + b"\n")
                        count += 1
    if not count:
        raise RecordError(base, f"Jaeger has no spans from {_moment(first_ns)} to {_moment(end_ns)} (services: {', '.join(known) or 'none'})")  # fmt: skip
    return count


def _traces(base: str, service: str, first: int, end: int, depth: int) -> Iterator[dict[str, Any]]:
    answer = _ask(base, "traces", {
        "query.service_name": service, "query.start_time_min": _moment(first), "query.start_time_max": _moment(end),
        # As they were sent: Jaeger otherwise corrects clocks, and a verdict has to know when they stepped.
        "query.num_traces": str(depth), "query.raw_traces": "true",
    })  # fmt: skip
    if answer is None:
        return
    body = answer.get("result") or {}
    traces = {span.get("traceId") for group in body.get("resourceSpans") or () for scope in group.get("scopeSpans") or () for span in scope.get("spans") or ()}  # fmt: skip
    if len(traces) < depth:
        yield body
        return
    if end - first <= _SHORTEST_NS:
        raise RecordError(base, f"Jaeger gives {depth} traces of {service} at a time and has more within {(end - first) / 1e6:.1f} ms at {_moment(first)}: the answer would not be whole")  # fmt: skip
    middle = (first + end) // 2
    yield from _traces(base, service, first, middle, depth)
    yield from _traces(base, service, middle, end, depth)


def _new(body: dict[str, Any], seen: set[str]) -> list[dict[str, Any]]:
    """The groups without the spans that came before: a trace of several services, or over a seam, is found again."""
    groups = []
    for group in body.get("resourceSpans") or ():
        scopes = []
        for scope in group.get("scopeSpans") or ():
            spans = []
            for span in scope.get("spans") or ():
                key = f"{span.get('traceId')}{span.get('spanId')}"
                if key not in seen:
                    seen.add(key)
                    spans.append(span)
            if spans:
                scopes.append({**scope, "spans": spans})
        if scopes:
            groups.append({**group, "scopeSpans": scopes})
    return groups


def _ask(base: str, what: str, arguments: dict[str, str]) -> dict[str, Any] | None:
    query = f"?{urllib.parse.urlencode(arguments)}" if arguments else ""
    try:
        with urllib.request.urlopen(f"{base}/api/v3/{what}{query}", timeout=_TIMEOUT_S) as answer:  # noqa: S310
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(500).decode(errors="replace").strip()
        if error.code == 404 and "No traces found" in said:
            return None
        raise RecordError(base, f"Jaeger answers {error.code}: {said or error.reason}") from error
    except (OSError, ValueError) as error:
        raise RecordError(base, f"Jaeger cannot be asked: {getattr(error, 'reason', error)}") from error
    if not isinstance(found, dict):
        raise RecordError(base, "it is no Jaeger: its answer has another shape")
    if "error" in found:
        raise RecordError(base, f"Jaeger says: {found['error']}")
    return found


def _moment(at_ns: int) -> str:
    seconds, rest = divmod(at_ns, 10**9)
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"
