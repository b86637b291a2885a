"""By how much a share of bad requests grew: Newcombe's bounds, exact ones where few were bad."""

from __future__ import annotations

from typing import Any

from aiobs.chaos.containment.statistics import Bounds

FEW = 5
"""Below so many bad (or good) ones on a side the normal approximations are left alone."""
_NUISANCE = 1e-4
"""Risk spent on where the baseline's true share may lie (Berger and Boos)."""


def wilson(bad: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval of one share."""
    if n <= 0:
        return (0.0, 1.0)
    share = bad / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return (max(0.0, middle - reach), min(1.0, middle + reach))


def share_bounds(
    bad_a: int, n_a: int, bad_b: int, n_b: int, margin: float, alpha: float, inflation: float = 1.0
) -> Bounds:
    """Bounds of (bad_b / n_b) - (bad_a / n_a): a the baseline, b the fault window.

    `inflation` is by how much the variance exceeds that of independent requests.
    """
    few = min(bad_a, bad_b, n_a - bad_a, n_b - bad_b) < FEW
    n_eff = min(n_a, n_b) / inflation
    estimate = bad_b / n_b - bad_a / n_a
    near = _newcombe(bad_a, n_a, bad_b, n_b, alpha, inflation)
    p_harm = _p_harm(bad_a, n_a, bad_b, n_b, margin, inflation)
    if few and max(n_a, n_b) <= 2_000_000:
        # By how much better it got nobody asks, nor by how much worse at most where harm is shown.
        low = -_exact_high(bad_b, n_b, bad_a, n_a, alpha) if estimate > 0 else near[0]
        high = _exact_high(bad_a, n_a, bad_b, n_b, alpha) if low <= margin else near[1]
        # Where they clump, the exact bounds are too narrow as well.
        if inflation > 1.0:
            low, high = min(low, near[0]), max(high, near[1])
        if low <= margin:
            p_harm = max(p_harm, alpha)
        return Bounds(estimate, low, high, p_harm, n_eff, "exact")
    return Bounds(estimate, *near, p_harm, n_eff, "newcombe")


def _newcombe(bad_a: int, n_a: int, bad_b: int, n_b: int, alpha: float, inflation: float) -> tuple[float, float]:
    from scipy import stats

    z = float(stats.norm.isf(alpha))
    a, b = bad_a / n_a, bad_b / n_b
    low_a, high_a = wilson(bad_a / inflation, n_a / inflation, z)
    low_b, high_b = wilson(bad_b / inflation, n_b / inflation, z)
    down = ((b - low_b) ** 2 + (high_a - a) ** 2) ** 0.5
    up = ((high_b - b) ** 2 + (a - low_a) ** 2) ** 0.5
    return (b - a - down, b - a + up)


def _p_harm(bad_a: int, n_a: int, bad_b: int, n_b: int, margin: float, inflation: float) -> float:
    from scipy import stats

    a, b = (bad_a + 0.5) / (n_a + 1), (bad_b + 0.5) / (n_b + 1)
    error = ((a * (1 - a) / n_a + b * (1 - b) / n_b) * inflation) ** 0.5
    return float(stats.norm.sf((b - a - margin) / error))


def _exact_high(bad_a: int, n_a: int, bad_b: int, n_b: int, alpha: float) -> float:
    """The largest growth for which data this favourable are not too unlikely, whatever the baseline's share."""
    from scipy import stats

    span = (
        float(stats.beta.ppf(_NUISANCE / 2, bad_a, n_a - bad_a + 1)) if bad_a else 0.0,
        float(stats.beta.isf(_NUISANCE / 2, bad_a + 1, n_a - bad_a)) if bad_a < n_a else 1.0,
    )
    low, high = bad_b / n_b - bad_a / n_a, 1.0 - span[0]
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if _likelihood(span, bad_a, n_a, bad_b, n_b, middle) > alpha else (low, middle)
        if high - low < 1e-5 + 2e-3 * abs(high):
            break
    return high


def _likelihood(span: tuple[float, float], bad_a: int, n_a: int, bad_b: int, n_b: int, growth: float) -> float:
    """The most likely that data as favourable as these may be, were the true growth `growth`.

    Outcomes are ordered by their distance from `growth` in standard errors; the sum runs over all of them.
    """
    import numpy as np

    shares = np.linspace(span[0], span[1], 17)
    shares = shares[(shares + growth <= 1.0) & (shares + growth >= 0.0)]
    if not len(shares):
        return 0.0
    a, weight_a = _outcomes(n_a, shares)
    b, weight_b = _outcomes(n_b, shares + growth)

    def distance(bad: Any, of_a: int, bad_too: Any, of_b: int) -> Any:
        p, q = (bad + 0.5) / (of_a + 1), (bad_too + 0.5) / (of_b + 1)
        return (bad_too / of_b - bad / of_a - growth) / np.sqrt(p * (1 - p) / of_a + q * (1 - q) / of_b)

    favourable = distance(a[:, None], n_a, b[None, :], n_b) <= distance(bad_a, n_a, bad_b, n_b) + 1e-9
    return float(((weight_a @ favourable.astype(float)) * weight_b).sum(axis=1).max()) + _NUISANCE


def _outcomes(n: int, shares: Any) -> tuple[Any, Any]:
    """Counts that matter for any of `shares` (200 groups of neighbours at most), and how likely each is."""
    import numpy as np
    from scipy import special

    # Six standard errors and ten more leave out less than one in ten million.
    low, high = (float(share) * n for share in (shares[0], shares[-1]))
    first = max(0, int(low - 6 * low**0.5 - 10))
    last = min(n, int(high + 6 * high**0.5 + 10))
    counts = np.unique(np.linspace(first, last, min(last - first + 1, 200)).astype(int))
    return counts, np.diff(special.bdtr(counts.astype(float), n, shares[:, None]), axis=1, prepend=0.0)


def needed(estimate: float, high: float, margin: float) -> float:
    """Times as much data until the upper bound is below `margin`, were the estimate true; inf: it never will be."""
    room = margin - estimate
    if high < margin:
        return 0.0
    return float("inf") if room <= 0 else max(1.1, ((high - estimate) / room) ** 2)
