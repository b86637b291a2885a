"""How often something is read: its period, longer where reading it takes long."""

from __future__ import annotations

SHARE = 0.05
"""A reading may take this share of the time between two of them."""
LONGEST_S = 60.0


class Pace:
    """The pace of one group of one device.

    Attributes:
        period_s: seconds between two readings as of now.
        stretched: readings after which it had to become slower.
    """

    def __init__(self, period_s: float, begin_s: float) -> None:
        """`begin_s`: when the first reading is due (monotonic seconds)."""
        self.period_s = self._wanted_s = period_s
        self.stretched = 0
        self._due_s = begin_s

    def due(self, now_s: float) -> bool:
        """Whether it is time."""
        return now_s >= self._due_s

    @property
    def due_s(self) -> float:
        """When it is time (monotonic seconds)."""
        return self._due_s

    def took(self, duration_s: float, now_s: float) -> bool:
        """A reading was made; says whether it was so slow that there will be fewer of them.

        A slower pace is taken at once, a faster one by halves.
        """
        bearable_s = min(max(self._wanted_s, duration_s / SHARE), LONGEST_S)
        slower = bearable_s > self.period_s
        self.period_s = bearable_s if slower else max(bearable_s, self.period_s / 2)
        self.stretched += slower
        # On the grid of the wanted period, so that all devices are read in one go; never two to make up for a pause.
        self._due_s = max(self._due_s + self.period_s, now_s + self.period_s / 2)
        return slower
