"""Which attributes telemetry carries, from a sample of lines all over its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LINES = 64
VALUES = 100
_SPANS = 50


def glimpse(paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Attribute to its values (a hundred at most), of resources and spans in lines from all over `paths`."""
    found: dict[str, set[str]] = {}
    for path in paths:
        for line in _lines(Path(path)):
            try:
                groups = json.loads(line).get("resourceSpans") or ()
            except (ValueError, AttributeError):
                continue
            for group in groups:
                _take(found, (group.get("resource") or {}).get("attributes"))
                for scope in group.get("scopeSpans") or ():
                    for span in (scope.get("spans") or ())[:_SPANS]:
                        _take(found, span.get("attributes"))
    return {key: tuple(sorted(values)[:VALUES]) for key, values in found.items()}


def _take(found: dict[str, set[str]], pairs: Any) -> None:
    for pair in pairs or ():
        value = next((it for it in (pair.get("value") or {}).values() if isinstance(it, (str, int, float))), None)
        if value is not None:
            text = ("true" if value else "false") if isinstance(value, bool) else str(value)
            found.setdefault(str(pair.get("key")), set()).add(text)


def _lines(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        end = -1
        for place in range(LINES):
            begin = max(size * place // LINES, end)
            file.seek(begin)
            if begin and begin != end:
                file.readline()  # the rest of a line that begins before
            line = file.readline()
            end = file.tell()
            if line:
                yield line
