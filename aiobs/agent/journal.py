"""The agent's memory: one line for each turn, and that line is what makes the turn done.

A turn first writes everything out (files of local exporters, bodies in the spool), then appends one line
with how far it got. An agent killed before the line takes back what it wrote without it; killed after it,
there is nothing to do again. So everything is exported once, wherever the agent dies.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

COMPACT_BYTES = 1 << 20
"""Beyond this size the file is rewritten with its last line only."""


class Journal:
    """The file ``agent/journal.jsonl``.

    Attributes:
        last: the last whole line, {} where there is none.
        damage: what was wrong with the file, "" for nothing; an incomplete last line is no damage.
        fresh: whether there was no usable line at all.
    """

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            OSError: it exists and cannot be read, or cannot be made.
        """
        self._path = path
        self.last: dict[str, Any] = {}
        self.damage = ""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(self._descriptor, "rb", closefd=False) as file:
            content = file.read()
        lines = content.splitlines(keepends=True)
        whole = 0
        for number, line in enumerate(lines, 1):
            entry = _parse(line)
            if entry is not None:
                self.last = entry
            elif number < len(lines) or line.endswith(b"\n"):
                self.damage = f"{path}: line {number} cannot be read and is left out"
            if entry is not None or line.endswith(b"\n"):
                whole += len(line)
        self.fresh = not self.last
        # What a killed agent left of a line goes, so that the next line stands alone.
        os.ftruncate(self._descriptor, whole)
        self._bytes = os.lseek(self._descriptor, 0, os.SEEK_END)
        if content and whole == len(content) and not content.endswith(b"\n"):
            self._bytes += os.write(self._descriptor, b"\n")

    def commit(self, entry: dict[str, Any]) -> None:
        """Append `entry`; when this returns, the turn is done.

        Raises:
            OSError: it could not be written; the file is as before.
        """
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        if self._bytes and self._bytes + len(line) > COMPACT_BYTES:
            self._replace(line)
        else:
            self._append(line)
        self.last = entry

    def _append(self, line: bytes) -> None:
        try:
            written = os.pwrite(self._descriptor, line, self._bytes)
            if written < len(line):
                written += os.pwrite(self._descriptor, line[written:], self._bytes + written)
            if written < len(line):
                raise OSError("the journal's disk is full")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._bytes)
            raise
        self._bytes += len(line)

    def _replace(self, line: bytes) -> None:
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError("the journal's disk is full")
            os.replace(temporary, self._path)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        os.close(self._descriptor)
        self._descriptor, self._bytes = descriptor, len(line)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
