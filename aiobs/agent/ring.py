"""Reading the ring of a flight record whose writer never waits: laps, holes and long records.

Cells are copied twice: the first look says how many are complete, the second takes them. With one look only, a
cell that is completed while it is being copied would show its new ``seq`` above an old body.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiobs.clock import monotonic_ns
from aiobs.recorder import layout

CHUNK = 1024
"""Cells taken at once, at most."""
ROUNDS = 64
"""Attempts to find something to read that can be trusted, before the caller's turn is over."""
HOLE_NS = 2_000_000_000
"""A reserved cell that stays empty so long behind complete ones will never be written: its writer died."""
PARTS_LIMIT = 4096
"""Parts kept whose record has not come; more can only be left by writers that died in the middle of theirs."""
LOOK_AHEAD = 64
"""Cells looked at, where the next one is not there, for some later one that is."""
_WORDS = layout.CELL_BYTES // 8
_SEQ = layout.HEAD_SEQ // 8
_SPAN = 24 // 8
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


class _Patience:
    """How long something has been in the way of reading."""

    def __init__(self) -> None:
        self._seq = -1
        self._since = 0

    def spent(self, seq: int, now: int) -> bool:
        """Whether `seq` has been in the way for HOLE_NS, as of `now` (monotonic ns)."""
        if self._seq != seq:
            self._seq, self._since = seq, now
        return now - self._since >= HOLE_NS


class Ring:
    """The ring of one flight record, read from `position` on.

    Attributes:
        position: sequence number of the next record to read.
        lost: records overwritten before they were read.
        torn: cells of records that were begun and never completed.
    """

    def __init__(self, read: Callable[[int, int], bytes], offset: int, cells: int, position: int) -> None:
        self._read = read
        self._offset = offset
        self._cells = cells
        self.position = position
        self.lost = 0
        self.torn = 0
        self._hole = _Patience()
        self._parts: dict[tuple[int, int], dict[int, bytes]] = {}
        self._parts_count = 0

    def take(self, limit: int = CHUNK, *, final: bool = False, now: Callable[[], int] = monotonic_ns) -> Cells | None:
        """The next records, at most `limit`; None where there are none now.

        With `final` the writer is gone: what is incomplete now stays so.
        """
        window = min(limit, CHUNK, self._cells - 2 * layout.LAP_MARGIN)
        for _ in range(ROUNDS):  # each round returns or moves on to a later position
            position = self.position
            there = self._there(window, final, now)
            if not there:
                if self._jump_if_passed() or (final and self._skip()):
                    continue
                return None
            raw = self._copy(position, there[-1] + 1)
            if self._overrun(position):
                continue
            if len(there) <= there[-1]:
                raw = b"".join(raw[i * layout.CELL_BYTES : (i + 1) * layout.CELL_BYTES] for i in there)
            self.position += there[-1] + 1
            self.torn += there[-1] + 1 - len(there)
            words = array("Q", raw)
            words.byteswap()
            return Cells(raw, words.tobytes(), len(there), self._join(raw))
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

    def _there(self, count: int, final: bool, now: Callable[[], int]) -> Sequence[int]:
        """Which of the next `count` cells are complete and may be read: up to the first hole, and beyond it where
        it will never be filled."""
        position, first = self.position, self.position + 1
        if not final and self._seqs(position, 1)[0] != first:  # nearly always: there is nothing new
            near = self._seqs(position, LOOK_AHEAD)
            if not any(seq == first + i for i, seq in enumerate(near)):
                return ()
        found = self._seqs(position, count)
        if found == list(range(first, first + count)):
            return range(count)
        hole = next(i for i, seq in enumerate(found) if seq != first + i)
        beyond = [i for i in range(hole, count) if found[i] == first + i]
        if beyond and (final or self._hole.spent(position + hole, now())):
            return [*range(hole), *beyond]
        return range(hole)

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
        """Span ids of the complete records of kind SPAN before `position` that the ring still holds.

        A writer killed in the middle of a record has left its kind and span there, under the seq of a lap ago: such a
        span has not ended. So a cell counts only under the seq it must have, and the oldest, which may be in the
        middle of being overwritten, do not count at all.
        """
        found: set[int] = set()
        last, room = self.position - 1, self._cells - layout.LAP_MARGIN
        for first in range(0, self._cells, CHUNK):
            raw = self._copy(first, min(CHUNK, self._cells - first))
            kinds = raw[:: layout.CELL_BYTES]
            words = memoryview(raw).cast("Q")
            spans, seqs = words[_SPAN::_WORDS].tolist(), words[_SEQ::_WORDS].tolist()
            for i, kind in enumerate(kinds):
                age = (last - first - i) % self._cells
                if kind == layout.SPAN and age < room and seqs[i] == last - age + 1:
                    found.add(spans[i])
        return found

    # -- holes ---------------------------------------------------------------------------------------------
    def _jump_if_passed(self) -> bool:
        return self._seqs(self.position, 1)[0] > self.position + 1 and self._jump()

    def _skip(self) -> bool:
        """Move on to the next complete record anywhere in the ring, none being near."""
        ahead = self._seqs(self.position + 1, self._cells - 1)
        later = next((i + 1 for i, seq in enumerate(ahead) if seq == self.position + 2 + i), None)
        if later is None:
            return False
        self.torn += later
        self.position += later
        return True

    # -- long records --------------------------------------------------------------------------------------
    def _join(self, raw: bytes) -> dict[int, bytes | None]:
        """The payloads of the records that were continued in parts, by offset; None for those that lack a part.

        Parts are kept until their record comes: another thread may write thousands in between.
        """
        payloads: dict[int, bytes | None] = {}
        size = layout.CELL_BYTES
        kinds, parts_low, parts_high = raw[::size], raw[_PARTS::size], raw[_PARTS + 1 :: size]
        if layout.PART not in kinds and not any(parts_low) and not any(parts_high):
            return payloads
        for cell, kind in enumerate(kinds):
            if kind != layout.PART and not parts_low[cell] and not parts_high[cell]:
                continue
            at = cell * size
            _, _, _, _, _, _, span, _, _, used, parts, start, index, _, _ = layout.HEAD.unpack_from(raw, at)
            payload = raw[at + layout.HEAD_BYTES : at + layout.HEAD_BYTES + min(used, layout.CELL_PAYLOAD)]
            if kind == layout.PART:
                self._keep_part((span, start), index, payload)
                continue
            found = self._parts.pop((span, start), {})
            self._parts_count -= len(found)
            if len(found) == parts:
                payloads[at] = payload + b"".join(found[index] for index in sorted(found))
            else:
                payloads[at] = None
                self.torn += 1
        return payloads

    def _keep_part(self, owner: tuple[int, int], index: int, payload: bytes) -> None:
        of_one = self._parts.setdefault(owner, {})
        self._parts_count += index not in of_one
        of_one[index] = payload
        while self._parts_count > PARTS_LIMIT:
            gone = len(self._parts.pop(next(iter(self._parts))))
            self._parts_count -= gone
            self.torn += gone

    def parts(self) -> list[list[object]]:
        """JSON-able: the parts of records that have not come yet."""
        return [
            [*owner, index, payload.hex()] for owner, of_one in self._parts.items() for index, payload in of_one.items()
        ]

    def restore_parts(self, state: list[list[object]]) -> None:
        """Take over what `parts` gave another reader at the same position."""
        for span, start, index, payload in state:
            self._keep_part((int(span), int(start)), int(index), bytes.fromhex(str(payload)))  # type: ignore[call-overload]
