"""What ``aiobs doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """One fact about this installation.

    Attributes:
        topic: settings, endpoint, ...
        level: ok; note, worth knowing; problem, telemetry will be missing.
        text: the fact, one line.
        remedy: what to do about it, "" where nothing is to be done.
        facts: more of it for ``--json``.
    """

    topic: str
    level: str
    text: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
