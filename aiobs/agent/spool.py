"""What waits to be sent: one file for each encoded request, in a folder for each exporter of each route.

A file appears whole (written aside, then renamed), is sent only once the turn that made it is in the
journal, and is deleted when the receiver has taken it. All folders together stay below a cap: beyond it the
oldest of the fullest folder go, counted. Where the disk refuses, a few MiB wait in memory instead.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

from aiobs.guard import say_once
from aiobs.ports import Body

MEMORY_BYTES = 16 << 20
"""Most that one exporter's bodies take in memory while the disk refuses them."""

_NAME = re.compile(r"(\d{12})-(traces|metrics|logs)-(\d+)\.body")

FULL, REFUSED, LOST = "spool_full", "disk_full", "file_lost"
"""Why items were dropped: over the cap; the disk refused and memory was full; the file went away."""


@dataclass(eq=False)
class Entry:
    """A waiting body: in a file, or in memory where `content` is given."""

    number: int
    signal: str
    items: int
    size: int
    content: bytes | None = None

    @property
    def name(self) -> str:
        """File name."""
        return f"{self.number:012}-{self.signal}-{self.items}.body"


class Allowance:
    """The bytes that all lanes together may take."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lanes: list[Lane] = []
        self.lock = threading.RLock()

    def used(self) -> int:
        """Bytes taken."""
        return sum(lane.bytes for lane in self.lanes)

    def make_room(self, size: int) -> None:
        """Evict the oldest bodies of the fullest lanes until `size` fits."""
        with self.lock:
            while self.used() + size > self.limit:
                if not max(self.lanes, key=lambda lane: lane.bytes).evict(FULL):
                    return


class Lane:
    """The waiting bodies of one exporter of one route, oldest first.

    Attributes:
        bytes: their size, on disk and in memory.
        last: number of the newest body ever put here.
        dropped: items given up, by reason.
    """

    def __init__(self, folder: Path, allowance: Allowance, committed: int | None) -> None:
        """Find what an earlier agent left.

        Args:
            folder: made when it is first needed.
            allowance: shared by all lanes.
            committed: the last number of a turn that was done; files beyond it are deleted, as their turn
                will be done again. None: the journal was lost, every file counts.
        """
        self._folder = folder
        self._allowance = allowance
        self._entries: deque[Entry] = deque()
        self._arrived = threading.Condition(allowance.lock)
        self._sending: Entry | None = None
        self.bytes = 0
        self.dropped: Counter[str] = Counter()
        self.last = committed or 0
        for entry in self._scan():
            if committed is not None and entry.number > committed:
                (folder / entry.name).unlink(missing_ok=True)
            else:
                self._entries.append(entry)
                self.bytes += entry.size
                self.last = max(self.last, entry.number)
        self._committed = self.last
        allowance.lanes.append(self)

    def _scan(self) -> list[Entry]:
        found: list[Entry] = []
        with contextlib.suppress(FileNotFoundError):
            for item in os.scandir(self._folder):
                match = _NAME.fullmatch(item.name)
                if match:
                    found.append(Entry(int(match[1]), match[2], int(match[3]), item.stat().st_size))
                elif item.name.endswith(".new"):
                    os.unlink(item.path)
        return sorted(found, key=lambda entry: entry.number)

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> int:
        """Spans, points and log records waiting."""
        with self._allowance.lock:
            return sum(entry.items for entry in self._entries)

    def put(self, body: Body) -> None:
        """Add a body; it may be sent after :meth:`commit`."""
        size = len(body.content)
        self._allowance.make_room(size)
        entry = Entry(self.last + 1, body.signal, body.items, size)
        try:
            self._write(entry, body.content)
        except OSError as error:
            say_once(f"spool:{self._folder}", "aiobs: %s cannot be written (%s); up to %d MiB of telemetry wait in memory", self._folder, error.strerror or error, MEMORY_BYTES >> 20)  # fmt: skip
            entry.content = body.content
            while self._in_memory() + size > MEMORY_BYTES and self.evict(REFUSED, memory=True):
                pass
        with self._allowance.lock:
            self.last = entry.number
            self._entries.append(entry)
            self.bytes += size

    def _write(self, entry: Entry, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._folder / f"{entry.number:012}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                if file.write(content) != len(content):
                    raise OSError("the disk is full")
            os.rename(temporary, self._folder / entry.name)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _in_memory(self) -> int:
        with self._allowance.lock:
            return sum(entry.size for entry in self._entries if entry.content is not None)

    @property
    def durable(self) -> bool:
        """Whether everything that waits is on disk."""
        return not self._in_memory()

    def evict(self, reason: str, *, memory: bool = False) -> bool:
        """Drop the oldest body that is not just being sent, counted under `reason`; False where there is none."""
        with self._allowance.lock:
            for entry in self._entries:
                if entry is not self._sending and (entry.content is not None or not memory):
                    self.remove(entry)
                    self.dropped[reason] += entry.items
                    return True
        return False

    def commit(self) -> None:
        """Everything put so far may be sent."""
        with self._arrived:
            self._committed = self.last
            self._arrived.notify_all()

    def next(self, timeout_s: float) -> tuple[Entry, Body] | None:
        """The oldest body that may be sent, waiting up to `timeout_s` for one."""
        with self._arrived:
            if not self._ready():
                self._arrived.wait(timeout_s)
            while self._ready():
                entry = self._sending = self._entries[0]
                content = entry.content
                if content is None:
                    try:
                        content = (self._folder / entry.name).read_bytes()
                    except OSError:
                        self.remove(entry)
                        self.dropped[LOST] += entry.items
                        continue
                return entry, Body(entry.signal, content, entry.items)
        return None

    def _ready(self) -> bool:
        # What is only in memory is sent without waiting for a journal that may be on the same full disk.
        return bool(self._entries) and (
            self._entries[0].number <= self._committed or self._entries[0].content is not None
        )

    def remove(self, entry: Entry) -> None:
        """Forget a body: it was taken, or is given up."""
        with self._allowance.lock:
            if self._sending is entry:
                self._sending = None
            if entry not in self._entries:
                return
            self._entries.remove(entry)
            self.bytes -= entry.size
        if entry.content is None:
            (self._folder / entry.name).unlink(missing_ok=True)

    def wake(self) -> None:
        """Let :meth:`next` return at once."""
        with self._arrived:
            self._arrived.notify_all()

    def close(self) -> None:
        """Give the allowance back; the files stay."""
        with self._allowance.lock, contextlib.suppress(ValueError):
            self._allowance.lanes.remove(self)
        if not self._entries:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
                self._folder.parent.rmdir()
