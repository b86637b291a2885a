"""A flight record as its reader sees it: a file that anybody may have damaged, cut short or put there.

It is read with plain reads, never mapped: a mapped file that is cut short kills its reader (SIGBUS).

Who shares a process with the writer (the agent as a thread) must know that POSIX locks belong to the process:
asking for the writer's lock would always succeed, and closing *any* descriptor of the file would drop it. So
:meth:`FlightReader.alive` does not ask for the own process, and :meth:`FlightReader.close` keeps that
descriptor.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from aiobs import names
from aiobs.agent.openings import Mark, OpenStep, read_area
from aiobs.agent.plans import TIME_LIMIT
from aiobs.agent.ring import CHUNK, Cells, Ring
from aiobs.agent.table import Table
from aiobs.agent.untrusted import DamagedError
from aiobs.clock import monotonic_ns
from aiobs.errors import RecordError
from aiobs.recorder import layout
from aiobs.telemetry import Resource, Route

MAX_CELLS = 1 << 24
MAX_SLOTS = 1 << 16
MAX_AREAS = 1 << 10
MAX_TABLE = 1 << 24
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of a 64-bit Linux: type, whence, start, length, pid."""
_kept_open: list[int] = []


class FlightReader:
    """One flight record, open for reading.

    Attributes:
        key: names the record among all of the runtime directory (the file's name without suffix).
        pid, start_ticks, boot_id: the process that wrote it; ticks since boot, boot id as hex.
        created_ns: monotonic ns. `wall_offset`: wall - monotonic clock, ns.
        damaged: records and marks that could not be what they said.
    """

    def __init__(self, path: Path, owner: int | None = None) -> None:
        """Open and check the record.

        Args:
            path: the file.
            owner: the user id it must belong to; the own one by default.

        Raises:
            RecordError: it is no flight record, damaged in its first page, or somebody else's.
        """
        self.path = path
        self.key = path.stem
        self.damaged = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise RecordError(str(path), f"cannot be opened: {error.strerror}") from error
        try:
            self._check_file(os.geteuid() if owner is None else owner)
            self._check_header()
        except RecordError:
            self.close()
            raise

    def _refuse(self, reason: str) -> RecordError:
        return RecordError(str(self.path), reason)

    def _check_file(self, owner: int) -> None:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise self._refuse("not a plain file")
        if status.st_uid != owner:
            raise self._refuse(f"belongs to user {status.st_uid}, not {owner}")
        if status.st_mode & 0o022:
            raise self._refuse(f"others may write to it (mode {stat.S_IMODE(status.st_mode):o})")
        self._size = status.st_size
        if self._size < layout.HEADER_BYTES:
            raise self._refuse(f"{self._size} bytes are too few for a flight record")

    def _check_header(self) -> None:
        header = self._read(0, layout.HEADER_BYTES)
        magic, version, header_bytes, pid, ticks, created, wall_offset, boot = layout.IDENTITY.unpack_from(header)
        if magic != layout.MAGIC:
            raise self._refuse("not a flight record")
        if version != layout.VERSION or header_bytes != layout.HEADER_BYTES:
            raise self._refuse(f"version {version} is not version {layout.VERSION}, the one known here")
        if not -TIME_LIMIT < wall_offset < TIME_LIMIT or created >= TIME_LIMIT or not 0 < pid < 1 << 31:
            raise self._refuse("damaged: impossible clock or process")
        self.pid, self.start_ticks, self.boot_id = int(pid), int(ticks), boot.hex()
        self.created_ns, self.wall_offset = int(created), int(wall_offset)
        table, table_bytes, slots, slot_count, areas, area_count, ring, cells = layout.GEOMETRY.unpack_from(
            header, layout.GEOMETRY_AT
        )
        parts = (
            ("table", table, table_bytes, 1, MAX_TABLE),
            ("slots", slots, slot_count, layout.CELL_BYTES, MAX_SLOTS),
            ("step areas", areas, area_count, layout.AREA_BYTES, MAX_AREAS),
            ("ring", ring, cells, layout.CELL_BYTES, MAX_CELLS),
        )
        for name, start, count, size, limit in parts:
            if start < layout.HEADER_BYTES or start % 8 or count > limit or start + count * size > self._size:
                raise self._refuse(
                    f"damaged: {name} ({count} from byte {start}) outside the {self._size} bytes there are"
                )
        if cells < 4 * layout.LAP_MARGIN:
            raise self._refuse(f"damaged: a ring of {cells} cells")
        self._slots, self._slot_count = slots, slot_count
        self._areas, self._area_count = areas, area_count
        (cursor,) = _U64.unpack_from(header, layout.CURSOR)
        (lost,) = _U64.unpack_from(header, layout.LOST)
        self._ring = Ring(self._read, ring, cells, max(cursor, layout.FIRST_SEQ))
        self._ring.lost = lost
        self.table = Table(self._read, table, table_bytes, names.THREAD_ID)
        self.refresh()
        if self.table.route is None:
            raise self._refuse("damaged: it does not say where its telemetry is to go")

    def _read(self, offset: int, size: int) -> bytes:
        try:
            raw = os.pread(self._fd, size, offset)
        except OSError as error:
            raise self._refuse(f"cannot be read: {error.strerror}") from error
        if len(raw) != size:
            raise self._refuse(f"was cut short: nothing at byte {offset + len(raw)}")
        return raw

    def _u64(self, offset: int) -> int:
        return int(_U64.unpack(self._read(offset, 8))[0])

    # -- what it says --------------------------------------------------------------------------------------
    @property
    def resource(self) -> Resource:
        """Who writes; another object after each change."""
        return self.table.resource

    @property
    def route(self) -> Route:
        """Where the telemetry is to go."""
        assert self.table.route is not None
        return self.table.route

    def refresh(self) -> None:
        """Take in what the table says by now. Raises RecordError."""
        self.table.refresh(self._u64(layout.TABLE_USED))

    def closed(self) -> bool:
        """Whether the writer ended the record in order. Raises RecordError."""
        return self._u64(layout.STATE) == layout.STATE_CLOSED

    def exit_code(self) -> int | None:
        """The exit code a process that closed its record knew. Raises RecordError."""
        (code,) = _I64.unpack(self._read(layout.EXIT_CODE, 8))
        return int(code) if -(1 << 31) < code < 1 << 31 else None

    def counters(self) -> dict[str, int]:
        """What the writer counted, by name: unmarked, clipped, faults, unrecorded; and lost, torn, damaged."""
        raw = self._read(layout.UNMARKED, 32)
        unmarked, clipped, faults, unrecorded = struct.unpack("<QQQQ", raw)
        return {
            "unmarked": unmarked,
            "clipped": clipped,
            "faults": faults,
            "unrecorded": unrecorded,
            "lost": self.lost,
            "torn": self.torn,
            "damaged": self.damaged + self.table.damaged,
        }

    def own_process(self) -> bool:
        """Whether the writer is this very process."""
        if self.pid != os.getpid():
            return False
        from aiobs.recorder.flight import start_ticks

        return start_ticks() == self.start_ticks

    def alive(self) -> bool:
        """Whether the writer still holds its lock; works across pid namespaces. See the module's text."""
        if self.own_process():
            return True
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            return bool(_FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)
        except OSError:
            return False

    # -- records -------------------------------------------------------------------------------------------
    @property
    def position(self) -> int:
        """Sequence number of the next record to read; may be set to go on from a cursor."""
        return self._ring.position

    @position.setter
    def position(self, seq: int) -> None:
        self._ring.position = max(seq, layout.FIRST_SEQ)

    @property
    def lost(self) -> int:
        """Records overwritten before they were read."""
        return self._ring.lost

    @property
    def torn(self) -> int:
        """Records begun and never completed."""
        return self._ring.torn

    def read(self, limit: int = CHUNK, *, final: bool = False, now: Callable[[], int] = monotonic_ns) -> Cells | None:
        """The next records, at most `limit`, or None; `final` when the writer is gone.

        The table is read afterwards: the writer names a shape before it uses it.

        Raises:
            RecordError: the file was cut short or cannot be read.
        """
        cells = self._ring.take(limit, final=final, now=now)
        if cells is not None:
            self.refresh()
        return cells

    def parts(self) -> list[list[object]]:
        """JSON-able: pieces of long records that were read and have not come to their end."""
        return self._ring.parts()

    def restore_parts(self, state: list[list[object]]) -> None:
        """Take over what `parts` gave an earlier reader at this position."""
        self._ring.restore_parts(state)

    def open_slots(self) -> list[Mark]:
        """Marks of the spans that are open now. Raises RecordError."""
        raw = self._read(self._slots, self._slot_count * layout.CELL_BYTES)
        self.refresh()  # the shape of a mark is in the table before the mark, but may be newer than the last record
        size = layout.CELL_BYTES
        seqs = memoryview(raw).cast("Q")[layout.HEAD_SEQ // 8 :: size // 8].tolist()
        return [Mark(i, raw[i * size : (i + 1) * size]) for i, seq in enumerate(seqs) if seq == 1]

    def open_steps(self) -> list[OpenStep]:
        """Training steps in progress. Raises RecordError."""
        found: list[OpenStep] = []
        for i in range(self._area_count):
            try:
                step = read_area(self._read(self._areas + i * layout.AREA_BYTES, layout.AREA_BYTES))
            except DamagedError:
                self.damaged += 1
                continue
            if step is not None:
                found.append(step)
        self.refresh()  # names of phases that no finished step has shown yet
        return found

    def finished_spans(self) -> set[int]:
        """Ids of the spans whose records are still in the ring: a mark with one of them is not open any more.

        Raises RecordError.
        """
        return self._ring.spans()

    def commit(self, cursor: int) -> None:
        """Note in the record that everything below `cursor` is exported or spooled. Raises RecordError."""
        try:
            os.pwrite(self._fd, _U64.pack(cursor % (1 << 64)) + _U64.pack(self.lost % (1 << 64)), layout.CURSOR)
        except OSError as error:
            raise self._refuse(f"cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file (a writer in the same process keeps its lock; see the module's text)."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            keep = hasattr(self, "pid") and self.own_process() and not os.pread(fd, 8, layout.STATE)[0]
        except (OSError, IndexError):
            keep = False
        if keep:
            _kept_open.append(fd)
        else:
            os.close(fd)
