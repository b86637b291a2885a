"""Metrics of one source (a process, the host): cumulative, bounded, with exemplars."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, Final

from aiobs.agent.instruments import INSTRUMENTS, LOGGED, SECONDS
from aiobs.telemetry import Exemplar, HistogramPoint, Metric, Point

SERIES_LIMIT: Final = 200
"""Attribute sets of one metric, and names of logged scalars; more share one that is marked as the overflow."""

Attributes = tuple[tuple[str, Any], ...]
"""Keys and values of a point, in an order that is always the same for one metric."""
Key = tuple[str, Attributes]
"""Metric name and attributes."""

OVERFLOW: Final[Attributes] = (("otel.metric.overflow", True),)


@dataclass(slots=True)
class Histogram:
    """An explicit-bucket histogram; one exemplar a bucket, the newest."""

    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0
    min: float = float("inf")
    max: float = float("-inf")
    exemplars: dict[int, Exemplar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count `value` in."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self.min = min(self.min, value)
        self.max = max(self.max, value)

    def exemplify(self, exemplar: Exemplar) -> None:
        """Point from the exemplar's bucket to its span."""
        self.exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar


class Metrics:
    """The metrics of one source. `start_ns`: when it began, Unix ns. Kinds, units and buckets are those of
    :mod:`aiobs.agent.instruments`."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self.changed = False
        self._histograms: dict[Key, Histogram] = {}
        self._sums: dict[Key, float] = {}
        self._levels: dict[Key, tuple[int, float]] = {}
        self._series: dict[str, int] = {}

    def _key(self, name: str, attributes: Attributes, known: Container[Key]) -> Key:
        key = name, attributes
        if key not in known:
            counted = name if name in INSTRUMENTS else ""
            if self._series.get(counted, 0) >= SERIES_LIMIT:
                return name, OVERFLOW
            self._series[counted] = self._series.get(counted, 0) + 1
        return key

    def _histogram(self, name: str, attributes: Attributes) -> Histogram:
        found = self._histograms.get((name, attributes))
        if found is None:
            key = self._key(name, attributes, self._histograms)
            found = self._histograms.get(key)
            if found is None:
                found = self._histograms[key] = Histogram(INSTRUMENTS[name].bounds)
        return found

    def observe(self, name: str, value: float, attributes: Attributes = (), exemplar: Exemplar | None = None) -> None:
        """Count a value into a histogram; `exemplar`: the exported span that shows it."""
        self.changed = True
        histogram = self._histogram(name, attributes)
        histogram.observe(value)
        if exemplar is not None:
            histogram.exemplify(exemplar)

    def exemplify(self, name: str, exemplar: Exemplar, attributes: Attributes = ()) -> None:
        """Point from a value that was counted in to the span that shows it."""
        self.changed = True
        self._histogram(name, attributes).exemplify(exemplar)

    def add(self, name: str, amount: float = 1, attributes: Attributes = ()) -> None:
        """Add to a sum."""
        self.changed = True
        key = self._key(name, attributes, self._sums)
        self._sums[key] = self._sums.get(key, 0) + amount

    def set(self, name: str, value: float, time_ns: int, attributes: Attributes = ()) -> None:
        """Set what was read elsewhere: a level, or a counter's total; `time_ns` in Unix ns.

        Beyond SERIES_LIMIT attribute sets it is left out: levels of several sources have no common value.
        """
        key = self._key(name, attributes, self._levels)
        if key[1] is not OVERFLOW:
            self.changed = True
            self._levels[key] = time_ns, value

    def drop(self, name: str, attributes: Attributes = ()) -> None:
        """Forget a level whose source is gone."""
        if self._levels.pop((name, attributes), None) is not None:
            self._series[name if name in INSTRUMENTS else ""] -= 1

    # -- out -----------------------------------------------------------------------------------------------
    def collect(self, now_ns: int) -> list[Metric]:
        """Everything so far, as of `now_ns` (Unix ns)."""
        self.changed = False
        found: dict[str, Metric] = {}
        for (name, attributes), it in self._histograms.items():
            if any(it.counts):
                point = HistogramPoint(
                    dict(attributes), self.start_ns, now_ns, sum(it.counts), it.sum, it.min, it.max, it.bounds,
                    list(it.counts), list(it.exemplars.values()),
                )  # fmt: skip
                _metric(found, name).points.append(point)  # type: ignore[arg-type]
        for (name, attributes), number in self._sums.items():
            _metric(found, name).points.append(Point(dict(attributes), self.start_ns, now_ns, number))  # type: ignore[arg-type]
        for (name, attributes), (time_ns, level) in self._levels.items():
            _metric(found, name).points.append(Point(dict(attributes), self.start_ns, time_ns, level))  # type: ignore[arg-type]
        return list(found.values())

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state; exemplars are left out, later spans bring new ones."""
        return {
            "start": self.start_ns,
            "changed": self.changed,
            "histograms": [
                [*key, h.counts, h.sum, h.min, h.max] for key, h in self._histograms.items() if any(h.counts)
            ],
            "sums": [[*key, number] for key, number in self._sums.items()],
            "levels": [[*key, *level] for key, level in self._levels.items()],
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Metrics:
        """What `snapshot` was taken of. A histogram whose buckets were others begins anew."""
        found = cls(state["start"])
        for name, attributes, counts, total, low, high in state["histograms"]:
            bounds = INSTRUMENTS[name].bounds
            if len(counts) == len(bounds) + 1:
                found._histograms[found._kept(name, attributes, found._histograms)] = Histogram(
                    bounds, counts, total, low, high
                )
        for name, attributes, number in state["sums"]:
            found._sums[found._kept(name, attributes, found._sums)] = number
        for name, attributes, time_ns, level in state["levels"]:
            found._levels[found._kept(name, attributes, found._levels)] = time_ns, level
        found.changed = state["changed"]
        return found

    def _kept(self, name: str, attributes: list[list[Any]], known: Container[Key]) -> Key:
        return self._key(name, tuple((key, value) for key, value in attributes), known)


def _metric(found: dict[str, Metric], name: str) -> Metric:
    if name not in found:
        it = INSTRUMENTS.get(name, LOGGED)
        found[name] = Metric(name, it.unit, it.description, it.kind, [])
    return found[name]
