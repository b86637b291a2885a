"""A run folder (OTLP JSON Lines, ours or a Collector's file exporter) as a source, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiobs import names
from aiobs.chaos.containment.boundaries import PLAIN, matches
from aiobs.chaos.containment.columns import FIXED, Asked
from aiobs.chaos.containment.fault_spans import faults_of
from aiobs.chaos.containment.glimpse import glimpse
from aiobs.chaos.containment.model import REST, Facts, Fault, Interval, Invariant, Samples, Seen, Slo, Spec
from aiobs.chaos.containment.reading import read, written
from aiobs.chaos.containment.spec import expand
from aiobs.errors import RecordError

_CUT = FIXED.index(names.TRUNCATED)
_STEPPED = -0.001
"""Seconds: spans that end earlier before their begin tell of a clock that stepped, others of one that was read twice."""


class RunFolder:
    """See the module's text.

    Args:
        folder: with ``traces*.jsonl`` in it, or one such file.
        spec: what will be asked of it; boundaries for each value are filled in from what it holds.

    Raises:
        NotEnabledError: msgspec or NumPy is not installed.
        RecordError: it is no run folder, or cannot be read.
        PlanError: the spec names what no telemetry carries.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.paths = _files(folder)
        values = {slo.indicator.value for slo in spec.slos} - {"", "duration"}
        asked = [boundary.where for boundary in spec.boundaries]
        asked += [where for slo in spec.slos for where in (slo.indicator.spans, slo.indicator.bad)]
        asked += [where for it in spec.invariants for where in (it.spans, it.by)]
        self._texts = tuple(sorted({key for where in asked for key in where} - {*PLAIN}))
        values |= {it.attribute for it in spec.invariants if it.numeric}
        marks = {key for it in spec.invariants for key in (it.attribute * (not it.numeric), it.each, it.at) if key}
        self._asked = Asked(self._texts, tuple(sorted(values)), tuple(sorted(marks)))
        try:
            self._values = glimpse(self.paths)
            self._told = read(self.paths, self._asked)
        except OSError as error:
            raise RecordError(str(folder), f"cannot be read: {error.strerror or error}") from error
        if not self._told.lines - self._told.unreadable:
            raise RecordError(str(folder), "holds no line of OTLP JSON: it is no run folder, or was written over")
        self._once()
        each = {key for boundary in spec.boundaries for key in boundary.where if ("{each}",) in boundary.where.values()}
        seen = {key: tuple(sorted({text for row in self._shapes() if (text := row[key]) is not None})) for key in each}
        self._values = {**self._values, **{key: found for key, found in seen.items() if found}}
        self.spec = expand(spec, self._values)
        self._member = self._mask([boundary.where for boundary in self.spec.boundaries])
        self._counts = self._mask([slo.indicator.spans for slo in spec.slos])
        # A request that failed before it had the value (no first token ever came) kept no promise either.
        failed: list[Mapping[str, Sequence[str]]] = [
            slo.indicator.bad or ({"error": ("true",)} if slo.kind == "threshold" else {}) for slo in spec.slos
        ]
        self._bad = self._mask(failed, any_of=True)

    def close(self) -> None:
        """Let go of the memory."""
        del self._told

    def _once(self) -> None:
        """Leave out copies, and put what is left in order of time."""
        import numpy as np

        told = self._told
        self._cut = np.array([shape[_CUT] == "true" for shape in told.shapes] or [False])
        # Of a span told as cut off and told again when it had ended, the whole one is taken.
        order = np.argsort(self._cut[told.shape], kind="stable") if self._cut.any() else None
        key = told.key if order is None else told.key[order]
        _, first = np.unique(key, return_index=True)
        self._duplicates = len(key) - len(first)
        kept = first if order is None else order[first]
        kept = kept[np.argsort(told.start[kept], kind="stable")]
        self._told = replace(
            told, start=told.start[kept], duration=told.duration[kept], key=np.empty(0), shape=told.shape[kept],
            numbers=[column[kept] for column in told.numbers], marks=[column[kept] for column in told.marks],
        )  # fmt: skip

    def _shapes(self) -> list[dict[str, str | None]]:
        keys = (*FIXED, *self._texts)
        return [dict(zip(keys, shape, strict=True)) for shape in self._told.shapes]

    def _mask(self, each: Sequence[Mapping[str, Sequence[str]]], any_of: bool = False) -> Any:
        """A bit for each of `each` that a shape matches."""
        import numpy as np

        found = np.zeros(max(len(self._told.shapes), 1), np.int64)
        tests = [matches(where, any_of) for where in each]
        for place, shape in enumerate(self._shapes()):
            found[place] = sum(1 << bit for bit, test in enumerate(tests) if test(shape))
        return found

    def files(self) -> tuple[Path, ...]:
        """The OTLP JSON Lines that were read, in which the spans of a trace can be looked up."""
        return tuple([Path(path) for path in self.paths])

    def seen(self) -> Seen:
        """What there is."""
        import numpy as np

        told = self._told
        start = told.start
        span = (int(start[0]), int(start[-1])) if len(start) else (0, 0)
        alive = np.unique(start // 100_000_000) * 100_000_000
        trouble = []
        if told.unreadable:
            trouble.append(f"{told.unreadable} of {told.lines} lines cannot be read")
        if told.timeless:
            trouble.append(f"{told.timeless} spans have no start and stand nowhere in time")
        # A process that dies leaves a line torn off; more tells of a file that was written over.
        torn = max(0, told.unreadable - len(self.paths)) / max(told.lines, 1)
        backwards = int((told.duration < _STEPPED).sum())
        return Seen(len(start), self._duplicates, span, alive, self._values, tuple(trouble), backwards, torn)

    def faults(self) -> tuple[Fault, ...]:
        """Faults on the record, by time."""
        return faults_of(self._told.faults, self.seen().span[1])

    def carriers(self) -> Mapping[str, int]:
        """How many spans each boundary holds."""
        import numpy as np

        spans = np.bincount(self._told.shape, minlength=len(self._member))
        return {
            boundary.name: int(spans[(self._member & (1 << place)) > 0].sum())
            for place, boundary in enumerate(self.spec.boundaries)
        }

    def samples(self, spec: Spec, permitted: Sequence[str]) -> tuple[Samples, ...]:
        """See :class:`~aiobs.chaos.containment.model.Source`."""
        import numpy as np

        bits = {boundary.name: 1 << place for place, boundary in enumerate(spec.boundaries)}
        inside = sum(bits[name] for name in permitted if name in bits)
        strata: list[tuple[str, Any, Any]] = [("+".join(permitted), "inside", (self._member & inside) > 0)]
        strata += [
            (name, "outside", ((self._member & bit) > 0) & ((self._member & inside) == 0))
            for name, bit in bits.items()
            if name not in permitted
        ]
        if spec.rest:
            strata.append((REST, "outside", self._member == 0))
        found = []
        for stratum, side, of_shape in strata:
            rows = np.flatnonzero(of_shape[self._told.shape] & ~(self._told.duration < _STEPPED))
            found += [self._samples(place, slo, stratum, side, rows) for place, slo in enumerate(spec.slos)]
        return tuple(found)

    def _samples(self, place: int, slo: Slo, stratum: str, side: Any, rows: Any) -> Samples:
        import numpy as np

        told, bit = self._told, 1 << place
        rows = rows[((self._counts & bit) > 0)[told.shape[rows]]]
        start, bad, took = told.start[rows], ((self._bad & bit) > 0)[told.shape[rows]], told.duration[rows]
        value = slo.indicator.value
        if not value:
            return Samples(stratum, slo.name, side, start, bad, np.empty(0), took=took)
        numbers = took if value == "duration" else told.numbers[self._asked.numbers.index(value)][rows]
        # How long it would have taken had it not been cut off, nobody knows.
        numbers = np.where(self._cut[told.shape[rows]], np.nan, numbers) if value == "duration" else numbers
        known = ~np.isnan(numbers)
        if slo.kind == "threshold" and slo.indicator.above is not None:
            failed = bad & ~known
            bad = (numbers > slo.indicator.above) | failed
            known = known | failed
        dropped = int((~known).sum())
        return Samples(stratum, slo.name, side, start[known], bad[known], numbers[known], dropped, took[known])

    def facts(self, invariant: Invariant, within: Interval) -> Facts:
        """What `invariant` is judged by, of spans that began in `within`."""
        import numpy as np

        told, asked = self._told, self._asked
        first, end = np.searchsorted(told.start, within)
        of_shape = self._mask([invariant.spans, invariant.by]) & (3 if invariant.by else 1)
        rows = first + np.flatnonzero(of_shape[told.shape[first:end]] > 0)
        if invariant.numeric:
            value = told.numbers[asked.numbers.index(invariant.attribute)][rows]
            carried = ~np.isnan(value)
        else:
            value = told.marks[asked.marks.index(invariant.attribute)][rows]
            carried = value != 0
        rows, value = rows[carried], value[carried]
        bits = of_shape[told.shape[rows]]
        failed = np.array([shape[FIXED.index("error")] == "true" for shape in told.shapes])[told.shape[rows]]

        def marks(key: str) -> Any:
            return told.marks[asked.marks.index(key)][rows] if key else np.zeros(len(rows), np.uint64)

        sought = invariant.at or invariant.attribute
        return Facts(
            told.start[rows], value, ~failed, (bits & 1) > 0, (bits & 2) > 0, marks(invariant.each), marks(invariant.at),
            lambda found: [it if isinstance(it, str) else written(self.paths, sought, it) for it in found],
        )  # fmt: skip


def _files(folder: Path) -> list[str]:
    """The files with spans in `folder`.

    Raises:
        RecordError: there are none.
    """
    if folder.is_file():
        paths = [folder]
    else:
        # A Collector's file exporter writes under whatever name it is given.
        ours = sorted(folder.glob("traces*.jsonl"))
        paths = ours or [path for path in sorted((*folder.glob("*.jsonl"), *folder.glob("*.json"))) if _has_spans(path)]
    found = [str(path) for path in paths if path.stat().st_size]
    if not found:
        raise RecordError(str(folder), "holds no spans: there is no traces*.jsonl with anything in it")
    return found


def _has_spans(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"resourceSpans"' in file.read(4096)


def open_folder(folder: Path, spec: Spec) -> tuple[RunFolder, Spec]:
    """The folder, and `spec` with its boundaries filled in."""
    source = RunFolder(folder, spec)
    return source, source.spec
