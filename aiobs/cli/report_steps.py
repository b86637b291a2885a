"""The part of a report that is about training steps: how many, how long, where the time went, which were slow."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from aiobs import names
from aiobs.cli.figures import median
from aiobs.cli.tables import rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SLOWEST = 5
"""Slow steps listed."""
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
SLOW = 1.5
"""A step is slow from so many medians on; the rule by which such steps are kept has the same default."""
EVEN_ENOUGH = 30

Sample = list[tuple[dict[str, Any], float]]
"""Kept steps, each with the number of steps that it stands for."""


def sections(db: DuckDBPyConnection) -> dict[str, Any]:
    """``steps``, ``phases``, ``ranks`` and ``slowest`` of the report; all empty where nothing was trained."""
    durations = _histograms(db, names.TRAIN_STEP_DURATION)
    kept = _kept(db)
    if not durations and not kept:
        return {"steps": {}, "phases": [], "ranks": [], "slowest": []}
    sample = weigh(kept, sum(point["count"] for point in durations))
    steps = _steps(db, durations, kept, sample)
    phases = _phases(db, steps["total"], sample)
    usual = {phase["name"]: phase["p50"] for phase in phases if phase["p50"] is not None}
    return {
        "steps": steps,
        "phases": phases,
        "ranks": _ranks(durations, sample),
        "slowest": _slowest(kept, steps["p50"], usual),
    }


def _histograms(db: DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    return rows(db, f"""SELECT who['rank'] AS rank, who['pid'] AS pid, att(attributes, '{names.PHASE}') AS phase,
        count, sum, max FROM points WHERE name = ? AND kind = 'histogram' AND count > 0
        ORDER BY rank NULLS LAST, pid""", [name])  # fmt: skip


def merged(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Count, total and longest of several histograms."""
    return {
        "count": sum(p["count"] for p in points),
        "total": sum(p["sum"] for p in points),
        "longest": max((p["max"] for p in points if p["max"] is not None), default=None),
    }


def _kept(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    """Every kept step of every rank, with its phases' seconds by name (top level only)."""
    return rows(db, f"""WITH steps AS (
        SELECT span, trace, step, who, start_ns, end_ns, seconds, truncated, att(attributes, '{names.STEP_KEPT}') AS kept,
            try_cast(att(attributes, '{names.STEP_OTHER}') AS DOUBLE) AS other
        FROM spans WHERE name IN ('{names.SPAN_STEP}', '{names.SPAN_RANK_STEP}') AND step IS NOT NULL AND scope LIKE 'aiobs%'
    ), phases AS (
        SELECT parent, name, sum(seconds) AS seconds FROM spans WHERE parent IN (SELECT span FROM steps)
            AND name NOT IN ('{names.SPAN_STEP}', '{names.SPAN_RANK_STEP}') AND name NOT LIKE '%{names.STARTED_SUFFIX}' GROUP BY parent, name
    ), gathered AS (SELECT parent, list({{'name': name, 'seconds': seconds}}) AS parts FROM phases GROUP BY parent)
    SELECT steps.step, steps.trace, who['rank'] AS rank, who['attempt'] AS attempt, start_ns, end_ns, steps.seconds, truncated, kept, other, parts
    FROM steps LEFT JOIN gathered ON gathered.parent = steps.span ORDER BY start_ns""")  # fmt: skip


def _steps(
    db: DuckDBPyConnection, durations: list[dict[str, Any]], kept: list[dict[str, Any]], sample: Sample
) -> dict[str, Any]:
    # A run that died before its first metrics left has none: then the kept steps are all that is known.
    seconds = [step["seconds"] for step, _ in sample]
    figures: dict[str, Any] = (
        merged(durations)
        if durations
        else {"count": len(seconds), "total": sum(seconds), "longest": max(seconds, default=None)}
    )
    whole = {(step["attempt"], step["step"]) for step, _ in sample}
    reasons = {(step["trace"], step["kept"]) for step in kept}
    skipped = db.execute("SELECT sum(value) FROM points WHERE name = ?", [names.TRAIN_STEPS_SKIPPED]).fetchone()
    return {
        **figures,
        "rank_steps": figures["count"],
        "count": max(_by_rank(durations).values()) if durations else len(whole),
        "kept": len({step["trace"] for step in kept}),
        "kept_for": dict(sorted(Counter(str(reason) for _, reason in reasons).items())),
        "truncated": sum(step["truncated"] for step in kept),
        "skipped": int(skipped[0] or 0) if skipped else 0,
        "per_second": figures["count"] / figures["total"] if figures["total"] else 0.0,
        "metrics": bool(durations),
        **quantiles([(step["seconds"], weight) for step, weight in sample]),
    }


def _by_rank(durations: list[dict[str, Any]]) -> dict[Any, int]:
    counts: dict[Any, int] = defaultdict(int)
    for point in durations:
        counts[point["rank"]] += point["count"]
    return counts


def weigh(kept: list[dict[str, Any]], total: int) -> Sample:
    """Whole kept steps, each with the number of steps (of `total`) that it stands for.

    A kept slow step stands for itself, since slow ones are kept whenever they occur. An ordinary one, kept for
    its number alone, stands for its share of all the ordinary ones.
    """
    whole = [step for step in kept if not step["truncated"]]
    if not whole:
        return []
    limit = SLOW * median([step["seconds"] for step in whole])
    slow = [step for step in whole if step["seconds"] > limit]
    ordinary = [step for step in whole if step["seconds"] <= limit]
    even = [step for step in ordinary if step["kept"] == "every"]
    if len(even) >= EVEN_ENOUGH and len(whole) < total:
        ordinary = even  # the first steps are all kept, and would count for more than their share
    weight = max(1.0, (total - len(slow)) / len(ordinary))
    return [*((step, 1.0) for step in slow), *((step, weight) for step in ordinary)]


def quantiles(values: list[tuple[float, float]]) -> dict[str, float | None]:
    """QUANTILES of weighted values; None where there are none."""
    ordered = sorted(values)
    whole = sum(weight for _, weight in ordered)
    found: dict[str, float | None] = {}
    for label, fraction in QUANTILES.items():
        passed = 0.0
        found[label] = None
        for value, weight in ordered:
            passed += weight
            found[label] = value
            if passed >= fraction * whole:
                break
    return found


def _phases(db: DuckDBPyConnection, step_total: float, sample: Sample) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for point in _histograms(db, names.TRAIN_PHASE_DURATION):
        groups[point["phase"] or ""].append(point)
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for step, weight in sample:
        for name, seconds in _parts(step).items():
            values[name].append((seconds, weight))
    phases = []
    for name in {**groups, **({} if groups else values)}:
        known = [seconds for seconds, _ in values[name]]
        figures: dict[str, Any] = (
            merged(groups[name]) if groups else {"count": len(known), "total": sum(known), "longest": max(known)}
        )
        share = figures["total"] / step_total if step_total else None
        phases.append({"name": name, **figures, "share": share, **quantiles(values[name])})
    return sorted(phases, key=lambda phase: (phase["name"] == names.PHASE_OTHER, -phase["total"]))


def _ranks(durations: list[dict[str, Any]], sample: Sample) -> list[dict[str, Any]]:
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for point in durations:
        groups[point["rank"]].append(point)
    if len(groups) < 2:
        return []
    return [
        {
            "rank": rank,
            **merged(points),
            **quantiles([(step["seconds"], weight) for step, weight in sample if step["rank"] == rank]),
        }
        for rank, points in groups.items()
    ]


def _slowest(kept: list[dict[str, Any]], typical: float | None, usual: dict[str, float]) -> list[dict[str, Any]]:
    """The slowest kept steps, and for each the rank and phase that exceeded its usual time by most."""
    whole = [step for step in kept if not step["truncated"]]
    if len(whole) < 3:
        return []
    together: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for step in whole:
        together[step["attempt"], step["step"]].append(step)
    slowest = sorted(together.values(), key=lambda ranks: -max(step["seconds"] for step in ranks))
    return [_reason(ranks, usual, typical) for ranks in slowest[:SLOWEST]]


def _reason(ranks: list[dict[str, Any]], usual: dict[str, float], typical: float | None) -> dict[str, Any]:
    """Why one step was slow, from all its ranks.

    In a step of several ranks the late one makes the others wait, in the collectives of their backward pass. So
    a rank that lost its time elsewhere is to blame rather than those whose backward pass was long.
    """
    excess = [
        (seconds - usual.get(name, 0.0), name, seconds, step)
        for step in ranks
        for name, seconds in _parts(step).items()
    ]
    most = max(excess, key=lambda each: each[0], default=(0.0, "", None, ranks[0]))
    if len(ranks) > 1:
        elsewhere = [each for each in excess if each[1] != names.PHASE_BACKWARD]
        cause = max(elsewhere, key=lambda each: each[0], default=most)
        most = cause if cause[0] >= most[0] / 2 else most
    _, phase, seconds, step = most
    longest = max(step["seconds"] for step in ranks)
    return {
        "step": step["step"], "attempt": step["attempt"], "rank": step["rank"], "seconds": longest, "trace": step["trace"],
        "times_median": longest / typical if typical else None, "phase": phase, "phase_seconds": seconds, "phase_median": usual.get(phase),
    }  # fmt: skip


def _parts(step: dict[str, Any]) -> dict[str, float]:
    parts = {part["name"]: part["seconds"] for part in step["parts"] or ()}
    if step["other"] is not None:
        parts[names.PHASE_OTHER] = step["other"]
    return parts
