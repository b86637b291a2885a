"""The flight record's bytes: the one place that says where everything lies.

A flight record is a memory-mapped file, one per process, little-endian throughout::

    header | table (names, resource) | open-span slots | step areas | ring of cells

The **header** holds who writes, two clock anchors, the control word, counters. The **table** is append-only:
each entry is ``u32 length, u8 kind, 3 zero bytes, length bytes of JSON``, padded to 8; the header's
``TABLE_USED`` is moved past an entry after it is written. The **slots** hold one mark per open span, the
**step areas** the training steps in progress, the **ring** everything finished.

Slots, step areas and ring cells begin with the same 80-byte *head*. Its last field, ``seq``, is written last
and makes the whole valid: in a cell it is the record's sequence number plus one, in a slot or step area 1
while open and 0 when free. A writer killed in between leaves a head that says "not there". An area's ``end``
is the end of the step's last optimizer step so far (0: none yet): where its writer dies, the entries before
that moment are a whole step and the rest belongs to the next.

The writer takes sequence numbers from an atomic counter (from ``FIRST_SEQ``) and never looks at the reader. A reader at `n` looks
at cell ``n % cells``: ``seq == n + 1`` means there, less means not yet, more means overwritten. A body can be
half overwritten while its old seq still stands, so a reader stays ``LAP_MARGIN`` cells clear of the writer.

A payload that does not fit behind the head is continued in cells of kind ``PART``, which carry the owner's
``span`` and ``start``, their index in ``aux`` and **lower** sequence numbers than the owning cell, whose
``parts`` says how many there are.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

MAGIC: Final = b"AIOBSFR1"
VERSION: Final = 1
SUFFIX: Final = ".fr"

# -- header ------------------------------------------------------------------------------------------------
HEADER_BYTES: Final = 4096
IDENTITY: Final = Struct("<8sIIQQQq16s")
"""magic, version, header bytes, pid, process start (clock ticks since boot, /proc/PID/stat field 22), created
(monotonic ns), wall offset (wall - monotonic, ns), boot id."""
CONTROL: Final = 64
"""Offset of the control word (u64). Byte 0: bit 0 recording is off, bit 1 whole detail wanted. The rest is
of armed points, below. Written by agent and chaos, read by the hot path with one load."""
CONTROL_OFF: Final = 1
CONTROL_DETAIL: Final = 2
POINTS_ARMED: Final = 65
"""Offset of u8 in the control word: 1 while points may be armed; what :func:`aiobs.point` looks at."""
POINTS_WATCHED: Final = 66
"""Offset of u8 in the control word, written by the process itself: 1 while it looks for armed functions unasked."""
POINTS_GENERATION: Final = 68
"""Offset of u32 in the control word: changes whenever the files of armed points do."""
GEOMETRY: Final = Struct("<IIIIIIII")
GEOMETRY_AT: Final = 80
"""table offset, table bytes, slots offset, slot count, areas offset, area count, ring offset, cell count."""
STATE: Final = 128
"""Offset of u64: one of the STATE_ values."""
STATE_OPEN: Final = 0
STATE_CLOSED: Final = 1
TABLE_USED: Final = 136
"""Offset of u64: bytes of the table that are valid."""
UNMARKED: Final = 144
"""Offset of u64: spans begun while every slot was taken (recorded when finished, unknown while open)."""
CLIPPED: Final = 152
"""Offset of u64: attribute values or payloads shortened to their limit."""
FAULTS: Final = 160
"""Offset of u64: exceptions inside aiobs that the guard swallowed in this process."""
UNRECORDED: Final = 168
"""Offset of u64: records the writer had to give up (a fault while writing, unserialisable values)."""
EXIT_CODE: Final = 176
"""Offset of i64: exit code of a process that closed its record and knew the code, else EXIT_UNKNOWN."""
EXIT_UNKNOWN: Final = -(1 << 31)
CURSOR: Final = 512
"""Offset of u64, written by the reader: every record below it is exported or spooled."""
LOST: Final = 520
"""Offset of u64, written by the reader: records overwritten before they were read."""

# -- table -------------------------------------------------------------------------------------------------
TABLE_BYTES: Final = 1 << 20
TABLE_ENTRY: Final = Struct("<IB3x")
ENTRY_SCHEMA: Final = 1
"""JSON ``{"id", "name", "kind", "scope", "version", "keys": [...], "types": "qdsbj"}``: the shape of a
record. Ids count from 1. ``kind`` is OTLP's span kind number (1 internal … 5 consumer)."""
ENTRY_PHASE: Final = 2
"""JSON ``{"id", "name"}``: name of a phase of a step."""
ENTRY_RESOURCE: Final = 3
"""JSON ``{"attributes": {...}}``: the whole resource; a later one replaces it from then on."""
ENTRY_ROUTE: Final = 4
"""JSON of :class:`aiobs.telemetry.Route`: run, attempt, rank and where the telemetry goes; a later one
replaces it."""
SCHEMA_JSON: Final = 0
"""Schema id of a record whose payload is JSON ``{"name", "kind", "scope", "version", "attributes"}``: what
the writer uses when there are more shapes than the table holds."""

# -- head of cells, slots and areas ------------------------------------------------------------------------
HEAD: Final = Struct("<BBHIQQQQIHHQQQQ")
"""kind u8, flags u8, slot u16, schema u32, trace hi u64, trace lo u64, span u64, parent u64, thread u32,
payload bytes in this cell u16, parts u16, start u64 (monotonic ns), aux u64, end u64 (monotonic ns), seq."""
QUICK_HEAD: Final = Struct("<10Q")
"""The same 80 bytes in ten fields, for the hot path: kind | flags << 8 | slot << 16 | schema << 32; trace hi; trace
lo; span; parent; thread | payload bytes << 32 | parts << 48; start; aux; end; seq."""
HEAD_BYTES: Final = 80
HEAD_END: Final = 64
"""Offset of ``end`` in a head; ``seq`` follows at 72, so that both are written with one call."""
HEAD_SEQ: Final = 72
END_SEQ: Final = Struct("<QQ")
NO_SLOT: Final = 0xFFFF

SPAN: Final = 1
"""A finished span (ring) or an open one (slot). Payload: attributes by schema."""
EVENT: Final = 2
"""An event of the span `span` at `start`. Payload: attributes by schema; the schema's name is the event's."""
SCALARS: Final = 3
"""Values the user logged (`aiobs.log`), keys and values by schema. ``aux``: step number + 1, 0 outside steps;
`span`, `trace`: the span they were logged in, 0 where none."""
STEP: Final = 4
"""A training step. ``aux``: step number. Trace, span and parent are 0: the reader computes them. Payload:
STEP_COUNT, then entries."""
PART: Final = 5
"""Continuation of a longer payload."""
ARRIVALS: Final = 6
"""When a GPU reached moments of this thread's work, written some steps later. `end`: no moment up to it (monotonic
ns) is still to come; ``aux``: moments given up. Payload: ARRIVAL each, moments ascending. One without payload and
with `end` 0 says that such records will follow from now on."""

FLAG_ERROR: Final = 1
"""The span failed: status ERROR."""
FLAG_EXTRA: Final = 2
"""After the schema's values a JSON object follows: ``{"attributes": {}, "message": "", "events": [[name,
monotonic ns, {}]], "links": [[trace hex, span hex, {}]], "state": "tracestate"}``, all keys optional."""
FLAG_IN_STEP: Final = 4
"""The span belongs to the trace of a step: it is kept or left out together with that step."""
FLAG_REMOTE: Final = 8
"""The parent lives in another process."""
FLAG_OK: Final = 16
"""Status explicitly OK."""
FLAG_SKIPPED: Final = 32
"""STEP: the optimizer was skipped (AMP overflow)."""

# -- values by schema --------------------------------------------------------------------------------------
# Payload of a schema with types t1…tn: a packed struct "<" + one code each, then the strings' bytes in order.
VALUE_CODES: Final = {"q": "q", "d": "d", "b": "?", "s": "H", "j": "H"}
"""Type letter → struct code. q: int64; d: float64; b: bool; s: UTF-8 string, the struct holding its byte
length; j: likewise, JSON text (lists, None, ints beyond 64 bits)."""

# -- steps -------------------------------------------------------------------------------------------------
STEP_COUNT: Final = Struct("<HHI")
"""Entries present, zero, entries begun in all (more than present when a step has more than fit)."""
STEP_ENTRY: Final = Struct("<HHIQQ")
"""phase id, index of the enclosing entry (NO_SLOT: none), thread, start, end (0: still open)."""
STEP_ENTRY_END: Final = 16
ARRIVAL: Final = Struct("<QQI4x")
"""The moment, as begin or end of a phase has it; when the GPU was there (both monotonic ns); PyTorch's number of it."""

SLOTS: Final = 4096
CELL_BYTES: Final = 192
CELL_PAYLOAD: Final = CELL_BYTES - HEAD_BYTES
AREAS: Final = 8
AREA_BYTES: Final = 8192
AREA_ENTRIES: Final = (AREA_BYTES - HEAD_BYTES - STEP_COUNT.size) // STEP_ENTRY.size
PAYLOAD_LIMIT: Final = 32768
"""Longest payload of one record, bytes; longer ones lose their longest values (counted in CLIPPED)."""
RING_BYTES: Final = 6 << 20
"""Default size of the ring; 32,768 cells."""
LAP_MARGIN: Final = 64
FIRST_SEQ: Final = 1
"""Sequence number of the first record, and so the first value of CURSOR: a cell being written can for a moment
show a slot's seq (1), which must never look like a record."""

TABLE_AT: Final = HEADER_BYTES
SLOTS_AT: Final = TABLE_AT + TABLE_BYTES
AREAS_AT: Final = SLOTS_AT + SLOTS * CELL_BYTES
RING_AT: Final = AREAS_AT + AREAS * AREA_BYTES


def cell_count(ring_bytes: int) -> int:
    """Cells in a ring of about `ring_bytes`, at least 4 × LAP_MARGIN."""
    return max(4 * LAP_MARGIN, ring_bytes // CELL_BYTES)


def file_bytes(cells: int) -> int:
    """Size of a flight record with `cells` ring cells (sparse until written)."""
    return RING_AT + cells * CELL_BYTES
