"""What arrives, written as a run folder and handed to a watch."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from aiobs.chaos.containment.sources.bodies import Body
from aiobs.chaos.containment.sources.observed import Observed, observed
from aiobs.errors import PlanError, RecordError

WAITING = 100_000
"""Spans that may wait for the watch; more are not taken in until it has looked at these."""


class Full(Exception):  # noqa: N818 - a state that passes, not an error
    """There is no room just now: the sender is to try again."""


class Recording:
    """A new run folder, and the spans that have come in since :meth:`spans` was last asked.

    Args:
        feed: whether somebody asks for the spans; else they are only written.

    Raises:
        PlanError: the folder holds a run already, or cannot be made.
    """

    def __init__(self, folder: Path, *, feed: bool = True) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if next(folder.glob("*.jsonl"), None):
                raise PlanError("folder", str(folder), "it holds a run already: name a new one")
        except OSError as error:
            raise PlanError("folder", str(folder), f"name a folder that can be written ({error.strerror or error})") from error  # fmt: skip
        self._feed = feed
        self._lines = threading.Lock()
        self._files: dict[str, int] = {}
        self._changed = threading.Condition()
        self._waiting: list[Observed] = []
        self._broken = ""

    def take(self, signal: str, body: Body) -> None:
        """Keep a request. Raises Full where the sender has to come again, RecordError where it cannot be written."""
        spans = [*observed(body.content)] if signal == "traces" and self._feed else []
        with self._changed:
            if self._waiting and len(self._waiting) + len(spans) > WAITING:
                raise Full
        self._write(signal, body.line)
        if spans:
            with self._changed:
                self._waiting += spans
                self._changed.notify()

    def spans(self, timeout_s: float) -> list[Observed]:
        """See :class:`~aiobs.chaos.containment.watch.Live`. Raises RecordError once something could not be written."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._broken, timeout_s)
            if self._broken:
                raise RecordError(str(self.folder), self._broken)
            found, self._waiting = self._waiting, []
        return found

    def keep(self, line: bytes) -> None:
        """Add a line of OTLP JSON. Raises RecordError."""
        self._write("traces", line)

    def close(self) -> None:
        """Close the files."""
        with self._lines:
            while self._files:
                os.close(self._files.popitem()[1])

    def _write(self, signal: str, line: bytes) -> None:
        path = self.folder / f"{signal}.jsonl"
        with self._lines:
            try:
                if signal not in self._files:
                    self._files[signal] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
                descriptor, size = self._files[signal], os.path.getsize(path)
                try:
                    rest = memoryview(line)
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
                except OSError:
                    os.ftruncate(descriptor, size)  # no half line for the next one to be glued to
                    raise
            except OSError as error:
                self._broken = f"cannot be written ({error.strerror or error})"
                raise RecordError(str(path), self._broken) from error
