"""Prometheus as a source of a verdict: counters and series of PromQL queries, sample by sample.

A boundary is told by its labels: an attribute's label is its name with ``_`` for every other character (``aiobs.replica``
is ``aiobs_replica``), as Prometheus itself names it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiobs.chaos.containment.model import REST, Fault, Samples, Seen, Slo, Spec
from aiobs.chaos.containment.sources.counting import Piece, growth, missing_ns, scrapes, step_ns, target_of
from aiobs.chaos.containment.sources.prometheus_api import NotASelector, PrometheusApi, Series
from aiobs.chaos.containment.spec import expand
from aiobs.errors import PlanError, RecordError

_MOST = 20_000_000
"""Events that are looked at; more do not make a verdict surer."""
_BLIND = 0.1
"""Share of a fault without scrapes from which on nothing is said of it."""
STEP_S = 5.0
"""How often a query that computes something is evaluated."""


class Prometheus:
    """See the module's text.

    Args:
        url: ``http://HOST:PORT``.
        spec: its SLOs must all be of Prometheus; boundaries for each value are filled in from the labels.
        faults: those on the record elsewhere; where there is none the spec must name its windows.

    Raises:
        PlanError: an SLO or a boundary cannot be asked, or nothing says when the fault was.
        RecordError: the server cannot be asked, or has nothing.
        NotEnabledError: the extra ``containment`` is not installed.
    """

    def __init__(self, url: str, spec: Spec, faults: Sequence[Fault]) -> None:
        others = [slo.name for slo in spec.slos if not slo.indicator.queries]
        if others:
            raise PlanError("slos", ", ".join(others), "they are about spans, which Prometheus has none of: judge a run folder by them")  # fmt: skip
        if getattr(spec, "invariants", ()):
            raise PlanError("invariants", "...", "they are about spans, which Prometheus has none of: judge a run folder by them")  # fmt: skip
        self._faults = tuple(sorted(faults, key=lambda it: it.injected_ns))
        first, end = _looked_at(spec, self._faults)
        api = PrometheusApi(url)
        found = {slo.name: {side: _fetch(api, query, side, first, end) for side, query in slo.indicator.queries.items()} for slo in spec.slos}  # fmt: skip
        self._found: dict[str, dict[str, list[Series]]] = found
        every = [series for sides in found.values() for part in sides.values() for series in part]
        for slo in spec.slos:
            for side, query in slo.indicator.queries.items():
                if not found[slo.name][side]:
                    raise RecordError(api.url, f"Prometheus has no sample of {query!r} in the time of the experiment; a counter that nothing ever raised is not there: see `good` in place of `bad`")  # fmt: skip
        self._times = scrapes(every)
        self._step = step_ns(self._times)
        self._values = _values(every, spec)
        spec = expand(spec, self._values)
        if spec.guard_s is None and spec.windows is None:
            spec = replace(spec, guard_s=max(self._step / 1e9, 1.0))  # which scrape an event belongs to is all that is known  # fmt: skip
        self.spec = spec
        self._member = [_matcher(boundary.where) for boundary in spec.boundaries]
        self._rows = {
            slo.name: self._counted(slo) if "total" in slo.indicator.queries else self._read(slo) for slo in spec.slos
        }

    def close(self) -> None:
        """Nothing is held."""

    def seen(self) -> Seen:
        """What there is."""
        import numpy as np

        moments = sorted({at for times in self._times.values() for at in times})
        total = sum(len(starts) for rows in self._rows.values() for starts, _, _ in rows.values())
        return Seen(total, 0, (moments[0], moments[-1]), np.asarray(moments), self._values, ())

    def faults(self) -> tuple[Fault, ...]:
        """Those it has been given."""
        return self._faults

    def carriers(self) -> Mapping[str, int]:
        """How many events each boundary holds."""
        found = dict.fromkeys([boundary.name for boundary in self.spec.boundaries], 0)
        for rows in self._rows.values():
            for members, (starts, _, _) in rows.items():
                for place in members:
                    found[self.spec.boundaries[place].name] += len(starts)
        return found

    def samples(self, spec: Spec, permitted: Sequence[str]) -> tuple[Samples, ...]:
        """See :class:`~aiobs.chaos.containment.model.Source`."""
        names = [boundary.name for boundary in spec.boundaries]
        inside = {place for place, name in enumerate(names) if name in permitted}
        found = []
        for slo in spec.slos:
            rows = self._rows[slo.name]
            strata: list[tuple[str, Any, list[frozenset[int]]]] = [("+".join(permitted), "inside", [it for it in rows if it & inside])]  # fmt: skip
            strata += [
                (name, "outside", [it for it in rows if place in it and not it & inside])
                for place, name in enumerate(names)
                if place not in inside
            ]
            strata += [(REST, "outside", [it for it in rows if not it])] if spec.rest else []
            found += [self._samples(slo, name, side, [rows[it] for it in chosen]) for name, side, chosen in strata]
        return tuple(found)

    def _samples(self, slo: Slo, stratum: str, side: Any, parts: list[Any]) -> Samples:
        import numpy as np

        if not parts:
            return Samples(stratum, slo.name, side, np.empty(0, np.int64), np.empty(0, bool), np.empty(0))
        start, bad, value = (np.concatenate([part[place] for part in parts]) for place in range(3))
        order = np.argsort(start, kind="stable")
        start, bad, value = start[order], bad[order], value[order] if len(value) else value
        known = ~np.isnan(value) if len(value) else np.ones(len(start), bool)
        return Samples(stratum, slo.name, side, start[known], bad[known], value[known] if len(value) else value, int((~known).sum()))  # fmt: skip

    # -- counters and series -------------------------------------------------------------------------------
    def _of(self, labels: Mapping[str, str]) -> frozenset[int]:
        return frozenset([place for place, match in enumerate(self._member) if match(labels)])

    def _counted(self, slo: Slo) -> dict[frozenset[int], Any]:
        sides = self._found[slo.name]
        other = "bad" if "bad" in sides else "good"
        sums: dict[frozenset[int], dict[str, dict[Piece, float]]] = defaultdict(lambda: {"total": defaultdict(float), other: defaultdict(float)})  # fmt: skip
        for side, series in sides.items():
            for it in series:
                target = target_of(it.labels)
                blind = self._blind(self._times[target])
                for piece, grown in growth(it, self._times[target], self._step).items():
                    if not any(piece[0] < end and piece[1] > first for first, end in blind):
                        sums[self._of(it.labels)][side][piece] += grown
        if sum(sum(side["total"].values()) for side in sums.values()) > _MOST:
            raise PlanError("slos", slo.name, f"more than {_MOST} events: name shorter windows, or a part of the series")  # fmt: skip
        return {members: _events(side["total"], side[other], other == "good") for members, side in sums.items()}

    def _read(self, slo: Slo) -> dict[frozenset[int], Any]:
        import numpy as np

        found: dict[frozenset[int], list[Any]] = defaultdict(list)
        for it in self._found[slo.name]["value"]:
            blind = self._blind(list(it.times))
            start, value = np.asarray(it.times, np.int64), np.asarray(it.values, float)
            for first, end in blind:
                start, value = start[(start < first) | (start >= end)], value[(start < first) | (start >= end)]
            above = slo.indicator.above
            bad = value > above if slo.kind == "threshold" and above is not None else np.zeros(len(value), bool)
            found[self._of(it.labels)].append((start, bad, value))
        return {members: tuple(np.concatenate([part[place] for part in parts]) for place in range(3)) for members, parts in found.items()}  # fmt: skip

    def _blind(self, times: Sequence[int]) -> list[tuple[int, int]]:
        """Fault windows in which too much was not scraped: they are as good as not seen at all."""
        spans = [self.spec.windows.fault] if self.spec.windows else [(it.effective_ns, it.undone_ns) for it in self._faults]  # fmt: skip
        return [span for span in spans if missing_ns(times, self._step, *span) > _BLIND * (span[1] - span[0])]


def _fetch(api: PrometheusApi, query: str, side: str, first: int, end: int) -> list[Series]:
    try:
        return api.scraped(query, first, end)
    except NotASelector:
        if side != "value":
            raise PlanError("query", query, "counters are read scrape by scrape, and summed over the labels of each boundary: name the series only, without functions") from None  # fmt: skip
        return api.computed(query, first, end, STEP_S)


def _looked_at(spec: Spec, faults: Sequence[Fault]) -> tuple[int, int]:
    if spec.windows is not None:
        first, end = spec.windows.whole
    elif faults:
        longest = max(it.undone_ns - it.effective_ns for it in faults)
        first = faults[0].injected_ns - (longest if spec.baseline_s is None else round(spec.baseline_s * 1e9))
        end = max(it.undone_ns for it in faults) + (longest if spec.recovery_s is None else round(spec.recovery_s * 1e9))  # fmt: skip
    else:
        raise PlanError("windows", "", "Prometheus knows no faults: name them with --faults, or give windows.baseline, fault and recovery by hand")  # fmt: skip
    return first - 60 * 10**9, end + 60 * 10**9  # the scrape before the first moment, and that after the last


def _label(attribute: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", attribute)


def _matcher(where: Mapping[str, Sequence[str]]) -> Any:
    from aiobs.chaos.containment.sources.observed import Observed, matcher

    match = matcher({_label(attribute): values for attribute, values in where.items()})
    return lambda labels: match(Observed("", "", "", 0, 0, False, labels))


def _values(series: Sequence[Series], spec: Spec) -> dict[str, tuple[str, ...]]:
    """Labels and their values, also under the names that the boundaries have for them."""
    found: dict[str, set[str]] = defaultdict(set)
    for it in series:
        for name, value in it.labels.items():
            found[name].add(value)
    for boundary in spec.boundaries:
        for attribute in boundary.where:
            if _label(attribute) in found:
                found[attribute] = found[_label(attribute)]
    return {name: tuple(sorted(values)) for name, values in found.items()}


def _events(total: Mapping[Piece, float], part: Mapping[Piece, float], good: bool) -> Any:
    """Starts and flags of single events. Rounding is carried on, so that the sums stay right."""
    import numpy as np

    starts, flags = [], []
    over = over_bad = 0.0
    for piece in sorted({*total, *part}):
        many = total.get(piece, 0.0)
        bad = many - part.get(piece, 0.0) if good else part.get(piece, 0.0)
        bad = max(bad, 0.0)
        over, over_bad = over + max(many, bad), over_bad + bad
        count = int(over)
        count_bad = min(int(over_bad), count)
        over, over_bad = over - count, over_bad - count_bad
        if count:
            places = np.arange(count)
            starts.append((piece[0] + (places + 0.5) / count * (piece[1] - piece[0])).astype(np.int64))
            flags.append((places + 1) * count_bad // count > places * count_bad // count)
    if not starts:
        return np.empty(0, np.int64), np.empty(0, bool), np.empty(0)
    return np.concatenate(starts), np.concatenate(flags), np.empty(0)
