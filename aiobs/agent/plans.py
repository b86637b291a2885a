"""The function that turns the cell of a plain span into its row, generated for each shape: no loop, no lists."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

from aiobs.agent.table import Schema
from aiobs.agent.untrusted import parse_value
from aiobs.recorder import layout
from aiobs.telemetry import Row

TIME_LIMIT = 1 << 62
"""Monotonic times and offsets beyond this are damage."""

ReadRow = Callable[[bytes, bytes, int], "Row | None"]
"""``read(little, big, at)``: the row of the cell at offset `at`, or None where it takes a closer look. Raises
ValueError for strings that are none."""


def row_function(schema: Schema, wall_offset: int, main_thread: int, room: int = layout.CELL_PAYLOAD) -> ReadRow:
    """The function for payloads of at most `room` bytes. For values of types "qs" it is::

    def read(little, big, at):
        parent, thread, used, parts, start, end, v0, v1 = unpack(little, at)
        if parts or not 10 <= used <= 112 or not start <= end < limit:
            return None
        span = big[at + 24 : at + 32]
        if span == nobody:
            return None
        q = at + 90
        p = q; q += v1; v1 = little[p:q].decode()
        if q > at + 80 + used:
            return None
        if thread != main:
            return threaded, big[at + 8 : at + 24], ..., (v0, v1, thread), None
        return shape, big[at + 8 : at + 24], span, big[at + 32 : at + 40] if parent else b"", start + offset,
               end + offset, (v0, v1), None
    """
    names = [f"v{i}" for i in range(len(schema.shape.types))]
    lines = [
        "def read(little, big, at):",
        f"    {', '.join(['parent', 'thread', 'used', 'parts', 'start', 'end', *names])} = unpack(little, at)",
        f"    if parts or not {schema.size} <= used <= {room} or not start <= end < limit:",
        "        return None",
        "    span = big[at + 24 : at + 32]",
        "    if span == nobody:",
        "        return None",
    ]
    if schema.texts:
        lines.append(f"    q = at + {layout.HEAD_BYTES + schema.size}")
        for index, is_json in schema.texts:
            taken = "parse(little[p:q])" if is_json else "little[p:q].decode()"
            lines.append(f"    p = q; q += v{index}; v{index} = {taken}")
        lines += [f"    if q > at + {layout.HEAD_BYTES} + used:", "        return None"]
    ids = 'big[at + 8 : at + 24], span, big[at + 32 : at + 40] if parent else b""'
    values = ", ".join([*names, ""])
    lines += [
        "    if thread != main:",
        f"        return threaded, {ids}, start + offset, end + offset, ({values} thread,), None",
        f"    return shape, {ids}, start + offset, end + offset, ({values}), None",
    ]
    # parent, thread, payload bytes, parts, start, end, values
    unpack = Struct("<32xQIHHQ8xQ8x" + schema.codes).unpack_from
    namespace: dict[str, Any] = {
        "unpack": unpack, "limit": TIME_LIMIT, "nobody": bytes(8), "parse": parse_value, "main": main_thread,
        "offset": wall_offset, "shape": schema.shape, "threaded": schema.threaded,
    }  # fmt: skip
    exec("\n".join(lines), namespace)  # noqa: S102 - made of numbers and the names above, nothing from the file
    read: ReadRow = namespace["read"]
    return read
