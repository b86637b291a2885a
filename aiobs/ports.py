"""What the core needs from outside: the two kinds of exporters, found by entry point, never imported.

The group ``aiobs_exporter`` names a factory ``create(route) -> LocalExporter | RemoteExporter``. A factory
raises :class:`~aiobs.errors.SettingError` for settings it cannot use and
:class:`~aiobs.errors.NotEnabledError` where a library is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from aiobs.telemetry import Batch

EXPORTER_GROUP = "aiobs_exporter"


@dataclass(frozen=True)
class Body:
    """One encoded request: `signal` is traces, metrics or logs; `items` counts its spans, points or records."""

    signal: str
    content: bytes
    items: int


@dataclass(frozen=True)
class Receipt:
    """What the receiver said of a body it took: `rejected` of its items were refused for good, `message` why."""

    rejected: int = 0
    message: str = ""


@runtime_checkable
class LocalExporter(Protocol):
    """Writes on this machine, at once.

    ``mark()`` says how far it has written, as a JSON-able value; ``rewind(mark)`` takes back everything after
    that mark. With these two the agent writes a batch exactly once though it be killed in the middle.
    """

    def write(self, batch: Batch) -> None:
        """Write all of `batch`, or raise :class:`~aiobs.errors.ExportError` (OSError is taken as such)."""

    def mark(self) -> object:
        """How far it has written."""

    def rewind(self, mark: object) -> None:
        """Undo what was written after `mark` (None: after nothing was written by this agent's route)."""

    def close(self) -> None:
        """Finish and release files."""


@runtime_checkable
class RemoteExporter(Protocol):
    """Sends bodies to somewhere that may be slow or gone; the agent spools them on disk in between."""

    def encode(self, batch: Batch) -> Iterable[Body]:
        """The bodies to send for `batch`; nothing for signals this receiver does not take."""
        ...

    def send(self, body: Body) -> Receipt:
        """Deliver once, without retrying; raise :class:`~aiobs.errors.ExportError` where it was not taken."""
        ...

    def close(self) -> None:
        """Release connections."""
