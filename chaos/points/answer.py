"""What a process says back about an armed point: how often it was reached, how often it acted, who is held in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from struct import error as Malformed  # noqa: N812 - it is a class

_COUNTS = Struct("<QQQ")
_NOTE_AT = 64
_NOTE_BYTES = 960


@dataclass(frozen=True)
class Answered:
    """What stands in an answer.

    Attributes:
        reached: hits within the fault's scope; `acted`: hits at which it did something.
        inside: calls that are held in it now.
        note: why it cannot act, "" where it can.
    """

    reached: int = 0
    acted: int = 0
    inside: int = 0
    note: str = ""


class Answer:
    """The process' side; made by the injector, so that a process never makes files of its own accord. The counts
    are written before the point acts: what kills the process is seen to have been us."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.reached = self.acted = self.inside = 0

    def write(self) -> None:
        """Say how the counts stand."""
        if self._descriptor >= 0:
            os.pwrite(self._descriptor, _COUNTS.pack(self.reached, self.acted, self.inside), 0)

    def note(self, text: str) -> None:
        """Say why it cannot act."""
        os.pwrite(self._descriptor, text.encode("utf-8", "replace")[:_NOTE_BYTES].ljust(_NOTE_BYTES, b"\0"), _NOTE_AT)

    def close(self) -> None:
        """Let go of the file; later writes go nowhere."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def make_answer(path: Path, user: int, group: int) -> None:
    """Make an empty answer for a process of that user. Raises OSError."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.ftruncate(descriptor, _NOTE_AT + _NOTE_BYTES)
        os.fchown(descriptor, user, group)
    finally:
        os.close(descriptor)


def read_answer(path: Path) -> Answered:
    """What a process has said; nothing where there is no answer."""
    try:
        content = path.read_bytes()
        reached, acted, inside = _COUNTS.unpack_from(content)
    except (OSError, Malformed):  # written by the victim: whatever stands there proves nothing then
        return Answered()
    note = content[_NOTE_AT : _NOTE_AT + _NOTE_BYTES].rstrip(b"\0").decode("utf-8", "replace")
    return Answered(reached, acted, inside, note)
