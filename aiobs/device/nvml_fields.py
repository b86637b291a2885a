"""NVML's numbered fields that we read: many in one call, each with its own answer.

Rows of one key are alternatives, the best first: of those that a device answers only the first is read from
then on. Only for rows of :data:`ADDED` the answers are added up.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiobs.device import quantities as q
from aiobs.device.base import FAST, SLOW
from aiobs.device.nvml_errors import ABSENT, SUCCESS, outcome

ALL_LINKS = 0xFFFFFFFF
MOST_LINKS = 18
_ROW = struct.Struct("=IIqqIiQ")
"""nvmlFieldValue_t: number, scope, time, latency, type, NVML's code, value."""
_DOUBLE, _SIGNED_LONG_LONG, _SIGNED = 0, 4, 5
_MASKS = {1: 0xFFFFFFFF, _SIGNED: 0xFFFFFFFF, 6: 0xFFFF}
"""Bits of the value that a type uses, where not all."""
_ALL = 0xFFFFFFFFFFFFFFFF
_UNUSUAL = frozenset({_DOUBLE, _SIGNED_LONG_LONG, _SIGNED})
_NOTHING = (0xFFFFFFFF, _ALL)
"""What drivers put where they have no value."""


class Row(NamedTuple):
    """One field: NVML's number of it, its scope (a link), our key, and what one unit of NVML's is in ours."""

    number: int
    scope: int
    key: str
    factor: float = 1.0


ADDED = frozenset({q.NVLINK_ACTIVE})
_NS, _MILLI, _KIB = 1e-9, 1e-3, 1024.0

FIELDS: Mapping[str, Sequence[Row]] = {
    FAST: (
        Row(83, 0, q.ENERGY, _MILLI),
        Row(186, 0, q.POWER, _MILLI),
        Row(185, 0, q.POWER, _MILLI),
        Row(82, 0, q.TEMPERATURE_MEMORY),
        Row(74, 0, q.THROTTLED["power_cap"], _NS),
        Row(76, 0, q.THROTTLED["sync_boost"], _NS),
        Row(269, 0, q.THROTTLED["thermal"], _NS),
        Row(75, 0, q.THROTTLED["thermal"], _NS),
        Row(270, 0, q.THROTTLED["hw_thermal"], _NS),
        Row(271, 0, q.THROTTLED["hw_power_brake"], _NS),
    ),
    SLOW: (
        Row(3, 0, q.ECC_CORRECTED),
        Row(5, 0, q.ECC_CORRECTED),
        Row(4, 0, q.ECC_UNCORRECTED),
        Row(6, 0, q.ECC_UNCORRECTED),
        Row(29, 0, q.RETIRED_CORRECTABLE),
        Row(30, 0, q.RETIRED_UNCORRECTABLE),
        Row(31, 0, q.RETIREMENT_PENDING),
        Row(142, 0, q.REMAPPED_CORRECTABLE),
        Row(143, 0, q.REMAPPED_UNCORRECTABLE),
        Row(144, 0, q.REMAP_PENDING),
        Row(145, 0, q.REMAP_FAILED),
        Row(94, 0, q.PCIE_REPLAYS),
        # Counters: the call that measures PCIe throughput instead takes 20 ms in each direction.
        Row(197, 0, q.PCIE_TRANSMIT),
        Row(198, 0, q.PCIE_RECEIVE),
        Row(202, ALL_LINKS, q.NVLINK_TRANSMIT),
        Row(138, ALL_LINKS, q.NVLINK_TRANSMIT, _KIB),
        Row(204, ALL_LINKS, q.NVLINK_RECEIVE),
        Row(139, ALL_LINKS, q.NVLINK_RECEIVE, _KIB),
        Row(161, ALL_LINKS, q.NVLINK_REPLAY),
        Row(52, 0, q.NVLINK_REPLAY),
        Row(162, ALL_LINKS, q.NVLINK_RECOVERY),
        Row(59, 0, q.NVLINK_RECOVERY),
        Row(163, ALL_LINKS, q.NVLINK_CRC),
        Row(38, 0, q.NVLINK_CRC),
        *(Row(165, link, q.NVLINK_ACTIVE) for link in range(MOST_LINKS)),
        Row(230, 0, q.RECOVERY_ACTION),
    ),
}


def _unusual(kind: int, raw: int) -> float:
    """The value behind the bits `raw` of a type with a sign or a point."""
    if kind == _DOUBLE:
        return float(struct.unpack("=d", raw.to_bytes(8, sys.byteorder))[0])
    bits = 64 if kind == _SIGNED_LONG_LONG else 32
    return raw - (1 << bits) if raw >> (bits - 1) else raw


class FieldCall:
    """The fields of one group of one device, in one call; those that it lacks are asked for once."""

    def __init__(self, nvml: Any, call: Any, handle: Any, rows: Sequence[Row]) -> None:
        self._nvml, self._call, self._handle = nvml, call, handle
        self._settled = False
        self._arrange(rows)

    def _arrange(self, rows: Sequence[Row]) -> None:
        # The array is made once, not for every reading.
        self.rows = tuple(rows)
        self._array = (self._nvml.c_nvmlFieldValue_t * len(rows))()
        self._count = len(rows)
        for place, row in zip(self._array, rows, strict=True):
            place.fieldId, place.scopeId = row.number, row.scope

    def read(self, values: dict[str, float]) -> int:
        """Put what the device says into `values`; returns NVML's code of the call as a whole."""
        if not self.rows:
            return SUCCESS
        code = int(self._call(self._handle, self._count, self._array))
        if code != SUCCESS:
            return code
        kept: list[Row] = []
        # Unpacked at one go: access to each member of a structure would take most of the time.
        for row, (_, _, _, _, kind, answer, raw) in zip(self.rows, _ROW.iter_unpack(self._array), strict=True):
            if answer == SUCCESS:
                raw &= _MASKS.get(kind, _ALL)
                if raw in _NOTHING:
                    continue
                if kind in _UNUSUAL:
                    raw = _unusual(kind, raw)
                if row.key not in values:
                    values[row.key] = raw * row.factor
                elif row.key in ADDED:
                    values[row.key] += raw * row.factor
                else:
                    continue
                kept.append(row)
            elif outcome(answer) != ABSENT:
                kept.append(row)
        if not self._settled:
            self._settled = True
            if len(kept) < len(self.rows):
                self._arrange(kept)
        return SUCCESS
