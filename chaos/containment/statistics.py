"""What the tests share: one-sided bounds, and how many independent samples a series really holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GATE = 30.0
"""Fewer independent samples than this in a window prove nothing: below it the tests' error rates are not what they say."""
BATCHES = 20
LAGS = 4096


@dataclass(frozen=True)
class Bounds:
    """A degradation (more is worse) with its one-sided bounds.

    Attributes:
        p_harm: how likely data like this are while the degradation is within the margin.
        n_eff: independent samples in the weaker window.
    """

    estimate: float
    low: float
    high: float
    p_harm: float
    n_eff: float
    method: str

    def wider(self, other: Bounds) -> Bounds:
        """The more cautious of both on each side."""
        return Bounds(
            self.estimate,
            min(self.low, other.low),
            max(self.high, other.high),
            max(self.p_harm, other.p_harm),
            min(self.n_eff, other.n_eff),
            f"{self.method}; {other.method}",
        )


def correlation_time(series: Any) -> float:
    """Integrated autocorrelation time of `series` in samples, at least 1: so many make one independent sample.

    Summed up to the window at which the sum no longer grows faster than noise (Sokal), on at most 4096 means of
    neighbours; what is correlated over the whole window shows up as a time near its length.
    """
    import numpy as np

    x = np.asarray(series, dtype=float)
    size = len(x)
    if size < 4:
        return 1.0
    step = -(-size // LAGS)
    if step > 1:
        x = x[: size // step * step].reshape(-1, step).mean(axis=1)
    scale = float(x @ x)
    x = x - x.mean()
    power = float(x @ x)
    if power <= 1e-20 * scale:  # one and the same number, but for rounding
        return 1.0
    width = 1 << (2 * len(x) - 1).bit_length()
    spectrum = np.fft.rfft(x, width)
    found = np.fft.irfft(spectrum * np.conj(spectrum), width)[: len(x)] / power
    times = 2.0 * np.cumsum(found) - 1.0
    enough = np.arange(len(times)) >= 5.0 * times
    window = int(np.argmax(enough)) if enough.any() else len(times) - 1
    return max(1.0, float(times[window])) * step


def effective(series: Any) -> float:
    """Independent samples in `series`."""
    size = len(series)
    return size / correlation_time(series) if size else 0.0


def _clinging(*windows: Any) -> float:
    """By how much the mean of batches varies more than they tell, since neighbours are still alike; at least 1."""
    import numpy as np

    parts = [part - part.mean() for part in windows]
    power = sum(float(part @ part) for part in parts)
    if power <= 0 or min(map(len, parts)) < 8:
        return 1.0
    alike = min(max(sum(float(part[1:] @ part[:-1]) for part in parts) / power, 0.0), 0.8)
    return float(np.divide(1 + alike, 1 - alike))


def welch(baseline: Any, fault: Any, margin: float, alpha: float, method: str, n_eff: float) -> Bounds:
    """One-sided Welch bounds of mean(fault) - mean(baseline), of batch means."""
    import numpy as np
    from scipy import stats

    a, b = np.asarray(baseline, dtype=float), np.asarray(fault, dtype=float)
    estimate = float(b.mean() - a.mean())
    clinging = _clinging(a, b)
    va, vb = clinging * float(a.var(ddof=1)) / len(a), clinging * float(b.var(ddof=1)) / len(b)
    error = (va + vb) ** 0.5
    if error <= 0.0:
        return Bounds(estimate, estimate, estimate, 0.0 if estimate > margin else 1.0, n_eff, method)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    reach = float(stats.t.ppf(1 - alpha, freedom)) * error
    return Bounds(
        estimate, estimate - reach, estimate + reach, float(stats.t.sf((estimate - margin) / error, freedom)), n_eff, method
    )  # fmt: skip
