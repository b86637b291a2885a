"""Server-sent events, as far as they carry JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

DONE = b"[DONE]"


def payloads_in(lines: Iterable[bytes]) -> Iterator[Any]:
    """The JSON of each event in `lines`; None for an event without: the end mark, what is cut or malformed.

    Line ends never occur inside JSON, so an event of a model is one line.
    """
    for line in lines:
        if line.startswith(b"data:"):
            text = line[5:].strip()
            try:
                yield None if text == DONE else json.loads(text)
            except (ValueError, RecursionError):
                yield None
