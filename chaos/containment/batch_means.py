"""Series cut into batches: their means are nearly independent where single samples are not."""

from __future__ import annotations

from typing import Any

from aiobs.chaos.containment.statistics import BATCHES, Bounds, welch

_CHANCE = 0.1
"""An excess of the variance that is likelier than this is taken for chance; batch means stand beside it anyway."""


WIDENED = 1.63
"""By how much clumping is taken for larger than 20 batches show it: one time in ten they show so much less than there is."""


def by_time(start_ns: Any, of: Any, window: tuple[int, int], batches: int = BATCHES) -> tuple[Any, Any]:
    """(count, sum of `of`) of each of `batches` equal stretches of `window`."""
    import numpy as np

    place = ((start_ns - window[0]) * batches // (window[1] - window[0])).astype(np.int64)
    inside = (start_ns >= window[0]) & (start_ns < window[1])
    place = place[inside]
    return (
        np.bincount(place, minlength=batches)[:batches],
        np.bincount(place, weights=np.asarray(of, dtype=float)[inside], minlength=batches)[:batches],
    )


def by_count(values: Any, batches: int = BATCHES) -> Any:
    """Means of `batches` stretches with equally many values (the last few left out)."""
    import numpy as np

    size = len(values) // batches
    if not size:
        return np.asarray(values, dtype=float)
    return np.asarray(values[: size * batches], dtype=float).reshape(batches, size).mean(axis=1)


def inflation(bad: Any, batches: int = BATCHES) -> float:
    """By how much the variance of a share of bad requests exceeds that of independent ones; 1 where that may be chance."""
    import numpy as np
    from scipy import stats

    size = len(bad) // batches
    if size < 2:
        return 1.0
    sums = np.asarray(bad[: size * batches], dtype=float).reshape(batches, size).sum(axis=1)
    share = float(sums.mean()) / size
    expected = size * share * (1 - share)
    found = float(sums.var(ddof=1)) / expected if expected > 0 else 1.0
    # 20 batches alone scatter by a third: taking each excess for clumping would cost a third of the power.
    if float(stats.chi2.sf(found * (batches - 1), batches - 1)) >= _CHANCE:
        return 1.0
    # A window that happens to hold few clumps shows too small a share and too small a spread at once.
    return found * WIDENED


def difference(
    baseline: Any, fault: Any, margin: float, alpha: float, n_eff: float, method: str = "batch means"
) -> Bounds:
    """Bounds of how much the mean grew, from batch means of both windows."""
    return welch(baseline, fault, margin, alpha, method, n_eff)
