"""What one GPU said over time, and what that says of an interval.

A reading stands for the time since the one before it, at most :data:`COVER_NS`: drivers average utilisation over
about so long. What no reading stands for is unknown, and stays so: no figure is made up for it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiobs.agent.curve import Curve
from aiobs.device import quantities
from aiobs.device.base import FAST, Reading

COVER_NS = 5_000_000_000
LIMIT = 4096
"""Readings kept one by one; beyond it two neighbours of the older half become one."""
KEPT_READINGS = 4
"""Readings that the journal keeps."""


@dataclass(frozen=True)
class Statistics:
    """What is known of one GPU in an interval; None: not known.

    Attributes:
        samples: readings within. `mean`, `max`: utilisation, 0 to 1. `memory_bytes`: the most used at a reading.
        throttled_s: seconds by reason; only where there are some.
        throttle_known: whether the device tells of throttling at all.
    """

    samples: int = 0
    mean: float | None = None
    max: float | None = None
    memory_bytes: float | None = None
    throttled_s: Mapping[str, float] = field(default_factory=dict)
    throttle_known: bool = False


@dataclass(slots=True)
class _Noted:
    """One reading, or two that became one: `number`: readings up to here."""

    time_ns: int
    number: int
    utilization: float | None
    memory: float | None


class Readings:
    """The readings of one GPU.

    Attributes:
        energy: joules counted since the first reading, None where the device has no such counter.
        newest: values of the newest reading of each group, by group.
    """

    def __init__(self) -> None:
        self.energy: Curve | None = None
        self.newest: dict[str, Reading] = {}
        self._noted: list[_Noted] = []
        self._times: list[int] = []
        self._busy, self._known = Curve(), Curve()
        self._throttled: dict[str, Curve] = {}
        self._breaks: list[tuple[int, int]] = []
        self._counter = 0.0

    @property
    def until_ns(self) -> int:
        """Time of the newest reading of the fast group; 0: there is none."""
        return self._times[-1] if self._times else 0

    # -- in ------------------------------------------------------------------------------------------------
    def add(self, reading: Reading) -> None:
        """Take in a reading; one that is not newer than the last of its group is left out."""
        before = self.newest.get(reading.group)
        if before is not None and reading.time_ns <= before.time_ns:
            return
        self.newest[reading.group] = reading
        if reading.group == FAST:
            self._add(reading, before)

    def _add(self, reading: Reading, before: Reading | None) -> None:
        now, values = reading.time_ns, reading.values
        utilization = values.get(quantities.UTILIZATION)
        number = self._noted[-1].number + 1 if self._noted else 1
        self._noted.append(_Noted(now, number, utilization, values.get(quantities.MEMORY_USED)))
        self._times.append(now)
        if len(self._noted) > LIMIT:
            self._thin()
        since = now if before is None else max(before.time_ns, now - COVER_NS)
        if utilization is not None and since < now:
            for curve, rate in ((self._busy, utilization), (self._known, 1.0)):
                level = curve.values[-1] if curve.times else 0.0
                if not curve.times or curve.times[-1] < since:
                    curve.add(since, level)
                curve.add(now, level + rate * (now - since) / 1e9)
        if quantities.ENERGY in values:
            self._count_energy(now, values[quantities.ENERGY])
        self._throttle(now, since, values, before.values if before is not None else {})

    def _count_energy(self, now: int, joules: float) -> None:
        energy = self.energy
        if energy is None:
            energy = self.energy = Curve()
            energy.add(now, 0.0)
        rose = joules - self._counter
        if rose < 0:  # it began anew: how much was drawn meanwhile is not known
            self._breaks = [*self._breaks[-63:], (energy.times[-1], now)]
            rose = 0.0
        if now > energy.times[-1]:
            energy.add(now, energy.values[-1] + rose)
        self._counter = joules

    def _throttle(self, now: int, since: int, values: Mapping[str, float], old: Mapping[str, float]) -> None:
        """Seconds by reason: from the driver's counters, else from the reasons of this moment."""
        counted = {reason for reason, key in quantities.THROTTLED.items() if key in values}
        mask = int(values.get(quantities.THROTTLE_REASONS, 0))
        held = {reason for bit, reason in quantities.THROTTLE_BITS.items() if mask & bit}
        for reason in counted | held | set(self._throttled):
            if reason in counted:
                key = quantities.THROTTLED[reason]
                rose = max(0.0, values[key] - old.get(key, values[key]))
            else:
                rose = (now - since) / 1e9 if reason in held else 0.0
            curve = self._throttled.get(reason)
            if curve is None:
                curve = self._throttled[reason] = Curve()
                curve.add(since, 0.0)
            if curve.times[-1] < since:
                curve.add(since, curve.values[-1])
            curve.add(now, curve.values[-1] + rose)

    def _thin(self) -> None:
        half = len(self._noted) // 4 * 2
        pairs = zip(self._noted[:half:2], self._noted[1:half:2], strict=True)
        self._noted[:half] = [
            _Noted(late.time_ns, late.number, _most(early.utilization, late.utilization), _most(early.memory, late.memory))
            for early, late in pairs
        ]  # fmt: skip
        self._times = [noted.time_ns for noted in self._noted]

    # -- out -----------------------------------------------------------------------------------------------
    def statistics(self, begin_ns: int, end_ns: int) -> Statistics:
        """What is known of the time from `begin_ns` to `end_ns`."""
        first, behind = bisect_left(self._times, begin_ns), bisect_right(self._times, end_ns)
        within = self._noted[first:behind]
        number = self._noted[first - 1].number if first else 0
        covering = self._noted[behind : behind + 1] if self._knows(end_ns) else []
        known_s = self._known.between(begin_ns, end_ns)
        mean = self._busy.between(begin_ns, end_ns) / known_s if known_s > 0 else None
        if mean is None and covering and begin_ns == end_ns:
            mean = covering[0].utilization
        return Statistics(
            within[-1].number - number if within else 0,
            mean,
            _most(*(noted.utilization for noted in [*within, *covering])) if mean is not None else None,
            _most(*(noted.memory for noted in within or self._nearest(begin_ns, end_ns, first))),
            self._throttled_s(begin_ns, end_ns),
            bool(self._throttled) or any(quantities.THROTTLE_REASONS in reading.values for reading in self.newest.values()),
        )  # fmt: skip

    def _knows(self, moment: int) -> bool:
        right = bisect_left(self._times, moment)
        return right < len(self._times) and self._times[right] - moment <= COVER_NS

    def _nearest(self, begin: int, end: int, first: int) -> list[_Noted]:
        """The reading nearest to an interval that has none, where it is near enough."""
        around = self._noted[max(0, first - 1) : first + 1]
        near = min(around, key=lambda noted: max(begin - noted.time_ns, noted.time_ns - end), default=None)
        if near is None or max(begin - near.time_ns, near.time_ns - end) > COVER_NS:
            return []
        return [near]

    def _throttled_s(self, begin: int, end: int) -> dict[str, float]:
        found = {reason: curve.between(begin, end) for reason, curve in self._throttled.items()}
        return {reason: min(seconds, (end - begin) / 1e9) for reason, seconds in found.items() if seconds > 1e-9}

    def counted(self, begin_ns: int, end_ns: int) -> bool:
        """Whether the energy counter tells what was drawn in that time."""
        return self.energy is not None and not any(since < end_ns and begin_ns < until for since, until in self._breaks)

    # -- across the agent's death --------------------------------------------------------------------------
    def snapshot(self) -> dict[str, Any]:
        """JSON-able state: the newest readings."""
        energy = self.energy
        return {
            "noted": [[n.time_ns, n.utilization, n.memory] for n in self._noted[-KEPT_READINGS:]],
            "energy": energy.newest(KEPT_READINGS) if energy is not None else None,
            "breaks": self._breaks[-4:],
            "counter": self._counter,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `snapshot` gave."""
        for time_ns, utilization, memory in state["noted"]:
            self._add(
                Reading(FAST, time_ns, _told({quantities.UTILIZATION: utilization, quantities.MEMORY_USED: memory})),
                Reading(FAST, self.until_ns, {}) if self.until_ns else None,
            )
        if self.until_ns:
            self.newest[FAST] = Reading(FAST, self.until_ns, {})
        if state["energy"] is not None:
            self.energy = Curve()
            for time_ns, joules in state["energy"]:
                self.energy.add(int(time_ns), joules)
        self._counter = state["counter"]
        self._breaks = [(int(since), int(until)) for since, until in state["breaks"]]


def _most(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _told(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None}
