"""Events that should not be at all: exact tests of Poisson rates."""

from __future__ import annotations

from aiobs.chaos.containment.statistics import Bounds


def rate_ratio(events_a: int, time_a: float, events_b: int, time_b: float, factor: float, alpha: float) -> Bounds:
    """Bounds of the rate during the fault over the baseline's, from exact conditional binomial limits.

    Without a single event anywhere nothing is known of the ratio: its upper bound is infinite.
    """
    from scipy import stats

    total = events_a + events_b
    odds = time_b / time_a
    if not total:
        return Bounds(0.0, 0.0, float("inf"), 1.0, 0.0, "exact Poisson")

    def ratio(share: float) -> float:
        return float("inf") if share >= 1.0 else share / (1.0 - share) / odds

    low = float(stats.beta.ppf(alpha, events_b, events_a + 1)) if events_b else 0.0
    high = float(stats.beta.isf(alpha, events_b + 1, events_a)) if events_a else 1.0
    under = factor * odds / (1.0 + factor * odds)
    p_harm = float(stats.binom.sf(events_b - 1, total, under))
    estimate = ratio(events_b / total)
    return Bounds(estimate, ratio(low), ratio(high), p_harm, float(total), "exact Poisson")


def at_most(events: int, time: float, alpha: float) -> float:
    """Upper bound of a rate: ln(1/alpha) over the time where none was seen (three, at 5 %)."""
    from scipy import stats

    return float(stats.chi2.isf(alpha, 2 * events + 2)) / 2 / time


def at_least(events: int, time: float, alpha: float) -> float:
    """Lower bound of a rate."""
    from scipy import stats

    return float(stats.chi2.ppf(alpha, 2 * events)) / 2 / time if events else 0.0
