"""Metrics of one process, aggregated from its records: cumulative, bounded, with exemplars."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiobs import names
from aiobs.agent.steps import Step
from aiobs.telemetry import Exemplar, HistogramPoint, Metric, Point

BOUNDS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
"""Bucket bounds of every duration, seconds."""
SERIES_LIMIT: Final = 200
"""Attribute sets of one metric, and gauges of one process; more share one that is marked as the overflow."""
OVERFLOW: Final = {"otel.metric.overflow": True}

INSTRUMENTS: Final[dict[str, tuple[str, str, str]]] = {
    names.TRAIN_STEP_DURATION: ("histogram", "s", "Duration of a training step."),
    names.TRAIN_PHASE_DURATION: ("histogram", "s", "Time of a training step spent in one phase."),
    names.DATA_WAIT_DURATION: ("histogram", "s", "One wait for the data loader."),
    names.CHECKPOINT_DURATION: ("histogram", "s", "Duration of saving or loading a checkpoint."),
    names.TRAIN_STEPS: ("sum", "{step}", "Training steps finished."),
    names.TRAIN_STEPS_SKIPPED: ("sum", "{step}", "Training steps whose optimizer step was skipped."),
}
"""Kind, unit and description by name."""


@dataclass(slots=True)
class Histogram:
    """An explicit-bucket histogram over BOUNDS_S; one exemplar a bucket, the newest."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum: float = 0.0
    min: float = float("inf")
    max: float = float("-inf")
    exemplars: dict[int, Exemplar] = field(default_factory=dict)

    def observe(self, value: float) -> None:
        """Count `value` in."""
        self.counts[bisect_left(BOUNDS_S, value)] += 1
        self.sum += value
        self.min = min(self.min, value)
        self.max = max(self.max, value)

    def exemplify(self, exemplar: Exemplar) -> None:
        """Point from the exemplar's bucket to its span."""
        self.exemplars[bisect_left(BOUNDS_S, exemplar.value)] = exemplar


Key = tuple[str, str, Any]
"""Metric name, attribute key and value ("" for none)."""


class ProcessMetrics:
    """The metrics of one process. `start_ns`: when it began, Unix ns."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self.changed = False
        self._histograms: dict[Key, Histogram] = {}
        self._sums: dict[Key, int] = {}
        self._gauges: dict[str, tuple[int, float]] = {}
        self._series: dict[str, int] = {}

    def _key(self, name: str, attribute: str, value: Any, known: Mapping[Key, Any]) -> Key:
        key = (name, attribute, value)
        if key not in known:
            if self._series.get(name, 0) >= SERIES_LIMIT:
                return name, *next(iter(OVERFLOW.items()))
            self._series[name] = self._series.get(name, 0) + 1
        return key

    def _histogram(self, name: str, attribute: str = "", value: Any = "") -> Histogram:
        key = self._key(name, attribute, value, self._histograms)
        found = self._histograms.get(key)
        if found is None:
            found = self._histograms[key] = Histogram()
        return found

    def observe(self, name: str, seconds: float, attribute: str = "", value: Any = "") -> None:
        """Count a duration in, with at most one attribute."""
        self.changed = True
        self._histogram(name, attribute, value).observe(seconds)

    def exemplify(self, name: str, exemplar: Exemplar, attribute: str = "", value: Any = "") -> None:
        """Point from a duration that was counted in to the span that shows it."""
        self.changed = True
        self._histogram(name, attribute, value).exemplify(exemplar)

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        self.changed = True
        self._sums[name, "", ""] = self._sums.get((name, "", ""), 0) + amount

    def set(self, name: str, value: float, time_ns: int) -> None:
        """Set a gauge, `time_ns` in Unix ns."""
        if name in self._gauges or len(self._gauges) < SERIES_LIMIT:
            self.changed = True
            self._gauges[name] = (time_ns, value)

    # -- steps ---------------------------------------------------------------------------------------------
    def see_step(self, step: Step) -> None:
        """Count a finished step in, kept or not."""
        self.observe(names.TRAIN_STEP_DURATION, step.seconds)
        for name, seconds in step.totals().items():
            self.observe(names.TRAIN_PHASE_DURATION, seconds, names.PHASE, name)
        for phase in step.phases:
            if phase.name == names.PHASE_DATA:
                self.observe(names.DATA_WAIT_DURATION, phase.seconds)
        self.add(names.TRAIN_STEPS)
        if step.skipped:
            self.add(names.TRAIN_STEPS_SKIPPED)

    def show_step(self, step: Step, time_ns: int) -> None:
        """Point to a step that is exported."""
        self.exemplify(names.TRAIN_STEP_DURATION, Exemplar(step.seconds, time_ns, step.trace, step.span))
        for name, seconds in step.totals().items():
            exemplar = Exemplar(seconds, time_ns, step.trace, step.span)
            self.exemplify(names.TRAIN_PHASE_DURATION, exemplar, names.PHASE, name)

    # -- out -----------------------------------------------------------------------------------------------
    def collect(self, now_ns: int) -> list[Metric]:
        """Everything so far, as of `now_ns` (Unix ns)."""
        self.changed = False
        found: dict[str, Metric] = {}
        for (name, key, value), histogram in self._histograms.items():
            if not any(histogram.counts):
                continue
            attributes = {key: value} if key else {}
            point = HistogramPoint(
                attributes, self.start_ns, now_ns, sum(histogram.counts), histogram.sum, histogram.min, histogram.max,
                BOUNDS_S, list(histogram.counts), list(histogram.exemplars.values()),
            )  # fmt: skip
            _metric(found, name).points.append(point)  # type: ignore[arg-type]
        for (name, key, value), number in self._sums.items():
            attributes = {key: value} if key else {}
            _metric(found, name).points.append(Point(attributes, self.start_ns, now_ns, number))  # type: ignore[arg-type]
        for name, (time_ns, level) in self._gauges.items():
            found[name] = Metric(
                name, "1", "Logged by the program.", "gauge", [Point({}, self.start_ns, time_ns, level)]
            )
        return list(found.values())

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state; exemplars are left out, later steps bring new ones."""
        return {
            "start": self.start_ns,
            "changed": self.changed,
            "histograms": [
                [*key, h.counts, h.sum, h.min, h.max] for key, h in self._histograms.items() if any(h.counts)
            ],
            "sums": [[*key, number] for key, number in self._sums.items()],
            "gauges": [[name, *level] for name, level in self._gauges.items()],
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> ProcessMetrics:
        """What `snapshot` was taken of."""
        found = cls(state["start"])
        for name, attribute, value, counts, total, low, high in state["histograms"]:
            key = found._key(name, attribute, value, found._histograms)
            found._histograms[key] = Histogram(counts, total, low, high)
        for name, attribute, value, number in state["sums"]:
            found._sums[name, attribute, value] = number
        for name, time_ns, level in state["gauges"]:
            found._gauges[name] = (time_ns, level)
        found.changed = state["changed"]
        return found


def _metric(found: dict[str, Metric], name: str) -> Metric:
    if name not in found:
        kind, unit, description = INSTRUMENTS[name]
        found[name] = Metric(name, unit, description, kind, [])
    return found[name]
