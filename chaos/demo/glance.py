"""What is happening now, from the telemetry as it is written: requests and steps a second, and what failed."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiobs import names

WINDOW_S, LATE_S = 2.0, 1.0
"""Rates are over so many seconds that ended so long ago: telemetry is written about once a second."""
_STEPS = (names.SPAN_STEP, names.SPAN_RANK_STEP)
_SERVER = (2, "2", "SPAN_KIND_SERVER")
_ERROR = (2, "2", "STATUS_CODE_ERROR")


@dataclass(frozen=True)
class Rate:
    """Of one replica, the router or one rank: good and bad ones a second."""

    good: float = 0.0
    bad: float = 0.0


class Glance:
    """Reads the growing files of a run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._seen: dict[str, deque[tuple[float, bool]]] = {}

    def rates(self, now: float | None = None) -> dict[str, Rate]:
        """By ``replica-0``, ``router``, ``rank-0``, …: everyone who was ever heard of."""
        for name, at, bad in self._fresh():
            self._seen.setdefault(name, deque()).append((at, bad))
        until = (time.time() if now is None else now) - LATE_S
        found = {}
        for name, seen in sorted(self._seen.items()):
            while seen and seen[0][0] < until - WINDOW_S:
                seen.popleft()
            within = [bad for at, bad in seen if at < until]
            found[name] = Rate(within.count(False) / WINDOW_S, within.count(True) / WINDOW_S)
        return found

    def _fresh(self) -> Iterator[tuple[str, float, bool]]:
        for path in sorted(self._folder.glob("traces*.jsonl")):
            try:
                with path.open("rb") as file:
                    file.seek(self._read.get(path, 0))
                    text = file.read()
            except OSError:
                continue
            whole = text.rfind(b"\n") + 1
            self._read[path] = self._read.get(path, 0) + whole
            for line in text[:whole].splitlines():
                yield from _spans(line)


def _spans(line: bytes) -> Iterator[tuple[str, float, bool]]:
    """(who, when it ended, whether it was bad) of the spans in a line that count."""
    try:
        groups = json.loads(line).get("resourceSpans", ())
    except ValueError:
        return
    for group in groups:
        told = {it["key"]: it["value"] for it in group.get("resource", {}).get("attributes", ())}
        who = _shown(told.get(names.SERVICE_INSTANCE_ID))
        for scope in group.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                if span.get("kind") in _SERVER or span.get("name") in _STEPS:
                    failed = span.get("status", {}).get("code") in _ERROR
                    yield who, int(span["endTimeUnixNano"]) / 1e9, failed


def _shown(value: dict[str, Any] | None) -> str:
    return str(next(iter(value.values()))) if value else ""
