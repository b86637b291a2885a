"""Reading the ring of a flight record whose writer never waits: laps, holes and long records.

Cells are copied twice: the first look says how many are complete, the second takes them. With one look only, a
cell that is completed while it is being copied would show its new ``seq`` above an old body.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from aiobs.clock import monotonic_ns
from aiobs.recorder import layout

CHUNK = 1024
"""Cells taken at once."""
HOLE_NS = 2_000_000_000
"""A reserved cell that stays empty so long behind complete ones will never be written: its writer died."""
_WORDS = layout.CELL_BYTES // 8
_SEQ = layout.HEAD_SEQ // 8
_SPAN = 24 // 8
_START = 48 // 8
_PARTS = 46


@dataclass(slots=True)
class Cells:
    """Complete records, in order.

    Attributes:
        little: the cells' bytes as written. `big`: the same with every 8 bytes reversed, so that ids, which
            are written as little-endian words, can be cut out as bytes.
        count: how many cells.
        payloads: the whole payload of those that were continued in PART cells, by offset of the cell; None where
            a part is missing.
    """

    little: bytes
    big: bytes
    count: int
    payloads: dict[int, bytes | None] = field(default_factory=dict)


class Ring:
    """The ring of one flight record, read from `position` on.

    Attributes:
        position: sequence number of the next record to read.
        lost: records overwritten before they were read.
        torn: records that were begun and never completed.
    """

    def __init__(self, read: Callable[[int, int], bytes], offset: int, cells: int, position: int) -> None:
        self._read = read
        self._offset = offset
        self._cells = cells
        self.position = position
        self.lost = 0
        self.torn = 0
        self._hole = -1
        self._hole_since = 0

    def take(self, *, final: bool = False, now: Callable[[], int] = monotonic_ns) -> Cells | None:
        """The next records, at most CHUNK; None where there are none to be had now.

        With `final` the writer is gone: what is incomplete now stays so.
        """
        for _ in range(4):  # each round either returns or moves on to a later position
            position = self.position
            count = self._ready(min(CHUNK, self._cells - 2 * layout.LAP_MARGIN))
            if count == 0 and not self._skip(final, now):
                return None
            if count == 0:
                continue
            raw = self._copy(position, count)
            if self._overrun(position):
                continue
            cells = self._whole(raw, final, now)
            if cells is not None:
                return cells
            if self.position == position:
                return None
        return None

    # -- looking -------------------------------------------------------------------------------------------
    def _copy(self, seq: int, count: int) -> bytes:
        """The bytes of `count` cells from that of `seq` on, around the end of the ring."""
        size = layout.CELL_BYTES
        cell = seq % self._cells
        first = min(count, self._cells - cell)
        raw = self._read(self._offset + cell * size, first * size)
        return raw if first == count else raw + self._read(self._offset, (count - first) * size)

    def _seqs(self, seq: int, count: int) -> list[int]:
        return memoryview(self._copy(seq, count)).cast("Q")[_SEQ::_WORDS].tolist()

    def _ready(self, count: int) -> int:
        """How many of the next `count` cells are complete."""
        position = self.position
        if self._seqs(position, 1)[0] != position + 1:
            return 0
        found = self._seqs(position, count)
        expected = range(position + 1, position + 1 + count)
        if found == list(expected):
            return count
        return next(i for i, (seen, right) in enumerate(zip(found, expected)) if seen != right)  # noqa: B905

    # -- laps ----------------------------------------------------------------------------------------------
    def _overrun(self, position: int) -> bool:
        """Whether the writer came so close from behind that what was copied cannot be trusted; moves on then."""
        margin = layout.LAP_MARGIN
        behind = self._seqs((position - margin) % self._cells, margin)
        return max(behind) > position and self._jump()

    def _jump(self) -> bool:
        """Move on to what the writer will not overwrite soon, if it has passed or nearly passed us."""
        cells = self._cells
        head = self._head()
        if head <= self.position + cells - layout.LAP_MARGIN:
            return False
        to = max(self.position, head - cells + max(2 * layout.LAP_MARGIN, cells // 8))
        self.lost += to - self.position
        self.position = to
        return True

    def _head(self) -> int:
        """Where the writer is: the largest seq that is borne out by others, so that one damaged cell is not one."""
        found = self._seqs(0, self._cells)
        seqs = sorted(seq for cell, seq in enumerate(found) if seq and (seq - 1) % self._cells == cell)
        margin = layout.LAP_MARGIN
        for i in range(len(seqs) - 1, margin - 1, -1):
            if seqs[i] - seqs[i - margin] <= self._cells:
                return seqs[i]
        return 0

    def spans(self) -> set[int]:
        """Span ids of the records of kind SPAN that the ring holds, read or not."""
        found: set[int] = set()
        for first in range(0, self._cells, CHUNK):
            raw = self._copy(first, min(CHUNK, self._cells - first))
            kinds = raw[:: layout.CELL_BYTES]
            spans = memoryview(raw).cast("Q")[_SPAN::_WORDS].tolist()
            found.update(span for kind, span in zip(kinds, spans) if kind == layout.SPAN)  # noqa: B905
        return found

    # -- holes ---------------------------------------------------------------------------------------------
    def _skip(self, final: bool, now: Callable[[], int]) -> bool:
        """At a cell that is not complete: move past it where it never will be."""
        position = self.position
        seen = self._seqs(position, 1)[0]
        if seen > position + 1 and self._jump():
            return True
        span = self._cells if final else min(self._cells, CHUNK)
        ahead = self._seqs(position + 1, span - 1)
        later = next((i for i, seq in enumerate(ahead) if seq == position + 2 + i), None)
        if later is None:
            self._hole = -1
            return False
        if not final and not self._waited(now):
            return False
        self.torn += later + 1
        self.position = position + 1 + later
        return True

    def _waited(self, now: Callable[[], int]) -> bool:
        if self._hole != self.position:
            self._hole, self._hole_since = self.position, now()
        return now() - self._hole_since >= HOLE_NS

    # -- long records --------------------------------------------------------------------------------------
    def _whole(self, raw: bytes, final: bool, now: Callable[[], int]) -> Cells | None:
        """The cells without those whose owning cell, or whose parts, are still to come."""
        count = len(raw) // layout.CELL_BYTES
        payloads: dict[int, bytes | None] = {}
        if layout.PART in raw[:: layout.CELL_BYTES] or any(raw[_PARTS :: layout.CELL_BYTES]) or any(raw[_PARTS + 1 :: layout.CELL_BYTES]):
            before, payloads, broken = _join(raw, count)
            if before == 0 and (count >= CHUNK or final or self._waited(now)):
                self.torn += 1
                self.position += 1
                return None
            self.torn += sum(1 for at in broken if at < before * layout.CELL_BYTES)
            raw, count = raw[: before * layout.CELL_BYTES], before
            if not count:
                return None
        words = array("Q", raw)
        words.byteswap()
        self.position += count
        return Cells(raw, words.tobytes(), count, payloads)


def _join(raw: bytes, count: int) -> tuple[int, dict[int, bytes | None], list[int]]:
    """How many of the cells are complete records, the payloads put together from parts, by offset, and the offsets
    of those that lack a part."""
    open_parts: dict[tuple[int, int], dict[int, tuple[int, bytes]]] = {}
    payloads: dict[int, bytes | None] = {}
    words = memoryview(raw).cast("Q")
    for cell in range(count):
        offset = cell * layout.CELL_BYTES
        kind, _, _, _, _, _, _, _, _, used, parts, _, aux, _, _ = layout.HEAD.unpack_from(raw, offset)
        if kind != layout.PART and not parts:
            continue
        owner = words[cell * _WORDS + _SPAN], words[cell * _WORDS + _START]
        payload = raw[offset + layout.HEAD_BYTES : offset + layout.HEAD_BYTES + min(used, layout.CELL_PAYLOAD)]
        if kind == layout.PART:
            open_parts.setdefault(owner, {})[aux] = (cell, payload)
            continue
        found = open_parts.pop(owner, {})
        whole = len(found) == parts
        payloads[offset] = payload + b"".join(found[index][1] for index in sorted(found)) if whole else None
    pending = [cell for parts_of_one in open_parts.values() for cell, _ in parts_of_one.values()]
    broken = [offset for offset, whole in payloads.items() if whole is None]
    return min(pending, default=count), payloads, broken
