"""The flight record as its writer sees it: a file mapped into memory, a table that grows, a ring that turns."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from aiobs.clock import monotonic_ns, wall_offset_ns
from aiobs.errors import RecordError
from aiobs.recorder import layout as at
from aiobs.recorder.compiled import core

_serial = count().__next__
_head = at.HEAD.pack_into


def start_ticks(pid: int | str = "self") -> int:
    """Start time of a process in clock ticks since boot; with the pid it names a process for ever. 0: unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def process_start_ns() -> int:
    """When this process started, monotonic ns, to the clock tick; now where the system does not tell."""
    ticks, now = start_ticks(), monotonic_ns()
    if not ticks:
        return now
    # One tick on, as the kernel rounds down: nothing may seem to begin before what started it.
    started = (ticks + 1) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return min(now, now - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started))


def _boot_id() -> bytes:
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "").strip())
    except OSError:
        return bytes(16)


def _lock_for_life(descriptor: int) -> None:
    """Lock the file until this process ends: "the writer lives", readable across pid namespaces.

    A POSIX lock, because a forked child inherits the descriptor but not the lock.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix
        return
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Flight:
    """An open flight record. All methods are safe to call from several threads.

    Attributes:
        mm: the mapped file; a scratch memory of the same size once closed or inherited over a fork, so that a
            late writer harms nobody.
        next_seq: gives the next sequence number; atomic.
        free: free open-span slots: offset, and number where it stands in a head's first word.
        areas: offsets of free step areas.
        wall_offset: wall clock - monotonic clock, ns.
        writer: the memory and the counter of `next_seq` as the compiled core sees them; None in pure Python.
    """

    __slots__ = (
        "_descriptor",
        "_inode",
        "_lock",
        "areas",
        "cells",
        "clip_at",
        "free",
        "mm",
        "next_seq",
        "path",
        "ring_at",
        "schemas",
        "wall_offset",
        "writer",
    )

    def __init__(self, directory: Path, ring_bytes: int, clip_at: int) -> None:
        """Create the file in `directory`.

        Raises:
            RecordError: the file cannot be made (read-only, full, no permission).
        """
        self.cells = at.cell_count(ring_bytes)
        self.ring_at = at.RING_AT
        self.clip_at = clip_at
        self.wall_offset = wall_offset_ns()
        self.schemas = 0
        self._lock = threading.Lock()
        pid, ticks = os.getpid(), start_ticks()
        self.path = directory / f"{pid}-{ticks}-{_serial()}{at.SUFFIX}"
        while self.path.exists():  # exec() keeps pid and start time; what ran before may not have been read yet
            self.path = directory / f"{pid}-{ticks}-{_serial()}{at.SUFFIX}"
        temporary = self.path.with_suffix(".new")
        try:
            self.mm = self._map(temporary)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise RecordError(str(temporary), f"cannot be written: {error.strerror or error}") from error
        mm = self.mm
        at.IDENTITY.pack_into(
            mm, 0, at.MAGIC, at.VERSION, at.HEADER_BYTES, pid, ticks, monotonic_ns(), self.wall_offset, _boot_id()
        )
        at.GEOMETRY.pack_into(
            mm, at.GEOMETRY_AT, at.TABLE_AT, at.TABLE_BYTES, at.SLOTS_AT, at.SLOTS, at.AREAS_AT, at.AREAS, at.RING_AT, self.cells
        )  # fmt: skip
        self._put(at.CURSOR, at.FIRST_SEQ)
        self._put(at.EXIT_CODE, at.EXIT_UNKNOWN & (1 << 64) - 1)
        # Popping from the end hands out the lowest slots again and again: few pages are ever touched.
        self.free = [(at.SLOTS_AT + i * at.CELL_BYTES, i << 16) for i in reversed(range(at.SLOTS))]
        self.areas = [at.AREAS_AT + i * at.AREA_BYTES for i in reversed(range(at.AREAS))]
        self.next_seq: Callable[[], int] = count(at.FIRST_SEQ).__next__
        self.writer: Any = None
        if core is not None:
            self.writer = core.Writer(mm, self.free, at.RING_AT, self.cells, at.FIRST_SEQ)
            self.next_seq = self.writer.next_seq

    def _map(self, temporary: Path) -> mmap.mmap:
        self._descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        size = at.file_bytes(self.cells)
        try:
            # On a full disk a store into a hole of the file would be SIGBUS in the user's program. Every block
            # is therefore claimed now, where failure is an error code.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, 0, size)
            else:
                os.ftruncate(self._descriptor, size)
            mapped = mmap.mmap(self._descriptor, size)
            self._inode = os.fstat(self._descriptor).st_ino
            _lock_for_life(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise
        return mapped

    def publish(self) -> None:
        """Give the file its real name; readers see it from now on, complete with resource and route."""
        os.rename(self.path.with_suffix(".new"), self.path)

    def _put(self, offset: int, value: int) -> None:
        self.mm[offset : offset + 8] = value.to_bytes(8, "little")

    def add(self, offset: int, n: int = 1) -> None:
        """Add `n` to the counter at `offset` of the header."""
        with self._lock:
            self._put(offset, int.from_bytes(self.mm[offset : offset + 8], "little") + n)

    def append(self, kind: int, entry: Mapping[str, Any]) -> bool:
        """Append a table entry; False when the table is full."""
        body = json.dumps(entry, default=str, separators=(",", ":")).encode("utf-8", "replace")
        size = at.TABLE_ENTRY.size + len(body)
        size += -size % 8
        with self._lock:
            used = int.from_bytes(self.mm[at.TABLE_USED : at.TABLE_USED + 8], "little")
            if used + size > at.TABLE_BYTES:
                return False
            start = at.TABLE_AT + used
            at.TABLE_ENTRY.pack_into(self.mm, start, len(body), kind)
            self.mm[start + at.TABLE_ENTRY.size : start + at.TABLE_ENTRY.size + len(body)] = body
            self._put(at.TABLE_USED, used + size)
            return True

    def append_numbered(self, kind: int, entry: dict[str, Any]) -> int:
        """Append an entry that gets the next id of the record (from 1); 0 when the table is full.

        The last eighth of the table is left to resource and route, which must always fit.
        """
        with self._lock:
            used = int.from_bytes(self.mm[at.TABLE_USED : at.TABLE_USED + 8], "little")
            if used > at.TABLE_BYTES - at.TABLE_BYTES // 8:
                return 0
            self.schemas += 1
            number = self.schemas
        return number if self.append(kind, {"id": number, **entry}) else 0

    def write(
        self, kind: int, flags: int, slot: int, schema: int, trace: tuple[int, int], span: int, parent: int,
        thread: int, start: int, aux: int, end: int, payload: bytes,
    ) -> None:  # fmt: skip
        """Append a record of any size to the ring."""
        mm, cells, ring_at = self.mm, self.cells, self.ring_at
        high, low = trace
        room = at.CELL_PAYLOAD
        parts = 0
        if len(payload) > room:
            for first in range(room, len(payload), room):
                piece = payload[first : first + room]
                seq = self.next_seq()
                cell = ring_at + seq % cells * at.CELL_BYTES
                mm[cell + at.HEAD_BYTES : cell + at.HEAD_BYTES + len(piece)] = piece
                _head(mm, cell, at.PART, 0, at.NO_SLOT, 0, 0, 0, span, 0, 0, len(piece), 0, start, parts, 0, seq + 1)
                parts += 1
            payload = payload[:room]
        seq = self.next_seq()
        cell = ring_at + seq % cells * at.CELL_BYTES
        mm[cell + at.HEAD_BYTES : cell + at.HEAD_BYTES + len(payload)] = payload
        _head(mm, cell, kind, flags, slot, schema, high, low, span, parent, thread, len(payload), parts, start, aux, end, seq + 1)  # fmt: skip

    def detach(self) -> None:
        """Go on with scratch memory: what is still written by anyone goes nowhere (closed, or after a fork)."""
        self.mm = mmap.mmap(-1, at.file_bytes(self.cells))
        if self.writer is not None:
            self.writer.move(self.mm)
        # A program may have closed every descriptor it did not know and got the number again for its own.
        with contextlib.suppress(OSError):
            if os.fstat(self._descriptor).st_ino == self._inode:
                os.close(self._descriptor)

    def close(self, exit_code: int | None = None) -> None:
        """Say that the process ends in order, and let go of the file; the agent deletes it when it is done."""
        if exit_code is not None:
            self._put(at.EXIT_CODE, exit_code & (1 << 64) - 1)
        self._put(at.STATE, at.STATE_CLOSED)
        self.detach()
