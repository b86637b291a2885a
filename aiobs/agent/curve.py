"""A quantity over time, known at some moments and straight between them; bounded, the past getting coarser."""

from __future__ import annotations

from bisect import bisect_left

LIMIT = 8192
"""Points of one curve. Beyond it every second point of the older half goes, so what is left resolves a moment to
about a thousandth of how long ago it was."""


class Curve:
    """Points in the order of time (monotonic ns)."""

    __slots__ = ("_limit", "times", "values")

    def __init__(self, limit: int = LIMIT) -> None:
        self.times: list[int] = []
        self.values: list[float] = []
        self._limit = limit

    def add(self, time_ns: int, value: float) -> None:
        """The value from `time_ns` on; one that is not later than the last point takes that point's place."""
        times = self.times
        if times and time_ns <= times[-1]:
            self.values[-1] = value
            return
        times.append(time_ns)
        self.values.append(value)
        if len(times) > self._limit:
            half = len(times) // 2
            self.times[:half] = times[:half:2]
            self.values[:half] = self.values[:half:2]

    def at(self, time_ns: int) -> float:
        """The value then; before the first point and after the last one, theirs. Raises IndexError: no point."""
        times, values = self.times, self.values
        right = bisect_left(times, time_ns)
        if right == len(times):
            return values[-1]
        if right == 0 or times[right] == time_ns:
            return values[right]
        begin, end = times[right - 1], times[right]
        return values[right - 1] + (values[right] - values[right - 1]) * ((time_ns - begin) / (end - begin))

    def between(self, begin_ns: int, end_ns: int) -> float:
        """By how much it rose; 0 where there is no point."""
        return self.at(end_ns) - self.at(begin_ns) if self.times else 0.0

    def moments(self, begin_ns: int, end_ns: int) -> list[int]:
        """Times of the points after `begin_ns` and before `end_ns`."""
        first = bisect_left(self.times, begin_ns + 1)
        return self.times[first : bisect_left(self.times, end_ns, first)]

    def newest(self, count: int) -> list[list[float]]:
        """JSON-able: the last points."""
        return [[time, value] for time, value in zip(self.times[-count:], self.values[-count:], strict=True)]
