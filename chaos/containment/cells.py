"""One cell of the verdict: a stratum and an SLO, baseline against fault window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aiobs.chaos.containment import batch_means, proportions, rare
from aiobs.chaos.containment.amounts import in_words, worse
from aiobs.chaos.containment.model import Cell, CellResult, Interval, Kind, Samples, Slo, Windows
from aiobs.chaos.containment.statistics import BATCHES, GATE, Bounds, effective

_SURELY = 20.0
"""So many requests expected, none seen: a stratum that is silent, not one with little traffic."""


def cell(samples: Samples, slo: Slo, windows: Windows, alpha: float, control: Samples | None = None) -> Cell:
    """Judge `samples`; with `control`, what the control drifted by in the same time is taken off."""
    a, b = _baseline(samples, windows), _fault(samples, windows)
    n_a, n_b = len(a[0]), len(b[0])
    blank = Cell(
        samples.stratum, samples.stratum, slo.name, samples.side, "no_data", 0.0, float("-inf"), float("inf"), slo.margin,
        0.0, 0.0, n_a, n_b, 0.0, "", float("inf"), slo.required,
    )  # fmt: skip
    if samples.dropped > len(samples.start_ns):
        most = f"{samples.dropped} of {samples.dropped + len(samples.start_ns)} spans"
        return replace(
            blank, reason=f"{most} carry no {slo.indicator.value}, which the SLO is about: it cannot be told"
        )
    if slo.kind != "rare" and not n_a:
        why = "it carried no traffic"
        return replace(blank, reason=f"{why} before the fault: there is nothing to compare with")
    gap = silent(samples, windows) if slo.kind not in ("rare", "rate") else 0.0
    mute = replace(
        blank,
        reason=f"nothing was heard of it for {gap or (windows.fault[1] - windows.fault[0]) / 1e9:.1f} s of the fault: it was dead, "
        "its telemetry was lost, or its clock jumped",
    )
    if slo.kind not in ("rare", "rate") and not n_b:
        return mute
    if slo.kind in ("ratio", "threshold"):
        bad_a, bad_b = int(a[1].sum()), int(b[1].sum())
        blank = replace(blank, baseline=bad_a / n_a, fault=bad_b / n_b)
        promised = 1.0 - (slo.objective or 0.0)
        if bad_a == n_a or proportions.wilson(bad_a, n_a, 2.576)[0] > promised + slo.margin:
            return replace(
                blank,
                result="baseline",
                reason=f"it was ill before the fault: {bad_a} of {n_a} were bad, {promised:.2%} is promised",
            )
        bounds = _shares(a, b, slo, windows, alpha, control)
    elif slo.kind == "mean":
        mean = float(a[2].mean())
        blank = replace(blank, baseline=mean, fault=float(b[2].mean()))
        if mean <= 0:
            return replace(
                blank, result="baseline", reason="its baseline is 0: no growth can be given as a share of it"
            )
        bounds = _means(a[2], b[2], mean, slo, alpha)
    elif slo.kind == "rate":
        whole = [(_cut(samples, window), window) for window in (windows.baseline, windows.fault)]
        good_a, good_b = (batch_means.by_time(part[0], ~part[1], window)[1] for part, window in whole)
        lengths = [(window[1] - window[0]) / 1e9 / BATCHES for window in (windows.baseline, windows.fault)]
        good_a, good_b = good_a / lengths[0], good_b / lengths[1]
        mean = float(good_a.mean())
        blank = replace(blank, baseline=mean, fault=float(good_b.mean()))
        if mean <= 0:
            return replace(blank, result="baseline", reason="not one request was good before the fault")
        # Twenty numbers are too few to tell how alike neighbours are.
        n_eff = min(effective(batch_means.by_time(part[0], ~part[1], window, _FINE)[1]) for part, window in whole)
        bounds = batch_means.difference(-good_a / mean, -good_b / mean, slo.margin, alpha, n_eff)
    else:
        times = [(window[1] - window[0]) / 1e9 for window in (windows.baseline, windows.fault)]
        bounds = _events(int(a[1].sum()), times[0], int(b[1].sum()), times[1], alpha)
    found = _settled(blank, bounds, slo.kind)
    if not gap or found.result == "harmed":
        return found
    # What was heard may show harm. That none was done it shows where all that was not heard may have been bad.
    unheard = gap * 1e9 / (windows.fault[1] - windows.fault[0])
    spared = slo.kind in ("ratio", "threshold") and found.result == "held" and found.high + unheard < slo.margin
    return found if spared else mute


def _settled(blank: Cell, bounds: Bounds, kind: Kind) -> Cell:
    at = replace(
        blank, estimate=bounds.estimate, low=bounds.low, high=bounds.high, n_eff=bounds.n_eff, method=bounds.method, p_harm=bounds.p_harm
    )  # fmt: skip
    result: CellResult
    margin = worse(kind, blank.margin, sign=False)
    if bounds.low > blank.margin:
        result, more = "harmed", 0.0
        reason = f"it got worse by {in_words(kind, bounds.estimate)} (at least {worse(kind, bounds.low, sign=False)}), more than the margin of {margin}"
    elif bounds.n_eff < GATE:
        result, more = "unsure", GATE / max(bounds.n_eff, 1.0)
        reason = f"only {bounds.n_eff:.0f} independent samples in a window, {GATE:.0f} are needed: measure {more:.1f} times as long"
    elif bounds.high < blank.margin:
        result, more = "held", 0.0
        reason = f"it got worse by {in_words(kind, bounds.high)} at most, the margin is {margin}"
    else:
        result, more = "unsure", proportions.needed(bounds.estimate, bounds.high, blank.margin)
        longer = (
            "no amount of it will show that it held" if more == float("inf") else f"measure {more:.1f} times as long"
        )
        reason = f"it may have got worse by up to {in_words(kind, bounds.high)}, the margin is {margin}: {longer}"
    return replace(at, result=result, reason=reason, more_needed=more)


_FINE = 5 * BATCHES

Rows = tuple[Any, Any, Any]
"""Start, bad and value of requests, by start."""


def _baseline(samples: Samples, windows: Windows) -> Rows:
    """Requests of the baseline, but for those that the fault may have caught before they had ended.

    What was under way when the baseline began is in it, as what was under way when the fault began is in the fault's:
    long requests are as likely in the one as in the other.
    """
    first, end = windows.baseline
    usual = _usual_s(samples, windows)
    reach = round(usual * 1e9) - (windows.injected_ns - end)
    if usual > 0 and reach > 0:
        end -= min(reach, (end - first) // 4)
    return _under_way(samples, (first, end), first - round(usual * 1e9))


def _fault(samples: Samples, windows: Windows) -> Rows:
    """Requests that began while the fault was held, or were under way when it set in."""
    before = windows.injected_ns - round(_usual_s(samples, windows) * 1e9)
    return _under_way(samples, windows.fault, max(before, windows.baseline[0]))


def _usual_s(samples: Samples, windows: Windows) -> float:
    """Seconds in which nearly all requests of the baseline had ended."""
    import numpy as np

    if samples.took is None:
        return 0.0
    first, end = np.searchsorted(samples.start_ns, windows.baseline)
    took = samples.took[first:end]
    took = took[np.isfinite(took)]
    return float(np.quantile(took, 0.99)) if len(took) else 0.0


def _under_way(samples: Samples, window: Interval, since_ns: int) -> Rows:
    """Requests that began in `window`, and those that began since `since_ns` and ended in it or later."""
    import numpy as np

    early, first, end = np.searchsorted(samples.start_ns, (min(since_ns, window[0]), *window))
    rows = np.arange(first, end)
    if samples.took is not None and early < first:
        took = samples.took[early:first]
        ended = samples.start_ns[early:first] + np.nan_to_num(took, nan=1e9) * 1e9
        rows = np.concatenate((early + np.flatnonzero(ended > window[0]), rows))
    value = samples.value[rows] if len(samples.value) else samples.value
    return samples.start_ns[rows], samples.bad[rows], value


def _cut(samples: Samples, window: Interval) -> Rows:
    return _under_way(samples, window, window[0])


def silent(samples: Samples, windows: Windows) -> float:
    """Seconds of the fault window without a request where the baseline's rate lets 20 be expected; 0: none."""
    import numpy as np

    before, during = _cut(samples, windows.baseline)[0], _cut(samples, windows.fault)[0]
    length = windows.baseline[1] - windows.baseline[0]
    rate = len(before) / length if length > 0 else 0.0
    edges = np.concatenate(([windows.fault[0]], during, [windows.fault[1]]))
    gap = float(np.diff(edges).max())
    usual = float(np.diff(before).max()) if len(before) > 1 else 0.0
    return gap / 1e9 if rate * gap >= _SURELY and gap > 3 * usual else 0.0


def _shares(a: Any, b: Any, slo: Slo, windows: Windows, alpha: float, control: Samples | None) -> Bounds:
    import numpy as np

    bad_a, n_a, bad_b, n_b = int(a[1].sum()), len(a[0]), int(b[1].sum()), len(b[0])
    usual, now = batch_means.inflation(a[1]), batch_means.inflation(b[1])
    if control is not None:
        return _against(a, b, slo, windows, alpha, control, min(n_a, n_b) / max(usual, now))
    bounds = proportions.share_bounds(bad_a, n_a, bad_b, n_b, slo.margin, alpha, max(usual, now))
    if now > usual:
        # An outage is one long clump. That harm was done is asked of what was usual: by its clumps it is shown, whereas
        # that little was done must be shown in spite of them.
        harm = proportions.share_bounds(bad_a, n_a, bad_b, n_b, slo.margin, alpha, usual)
    else:
        harm = bounds
    means = [batch_means.by_count(part[1]) for part in (a, b)]
    if min(bad_a, bad_b) >= proportions.FEW and min(map(len, means)) >= 4 and any(np.ptp(part) for part in means):
        bounds = bounds.wider(batch_means.difference(means[0], means[1], slo.margin, alpha, bounds.n_eff))
    return replace(bounds, low=harm.low, p_harm=harm.p_harm)


def _against(a: Any, b: Any, slo: Slo, windows: Windows, alpha: float, control: Samples, n_eff: float) -> Bounds:
    """Difference in differences: batch by batch, what the control did at the same time is taken off."""
    import numpy as np

    series = []
    for part, window in ((a, windows.baseline), (b, windows.fault)):
        own_n, own_bad = batch_means.by_time(part[0], part[1], window)
        ours = _cut(control, window)
        control_n, control_bad = batch_means.by_time(ours[0], ours[1], window)
        both = (own_n > 0) & (control_n > 0)
        series.append((own_bad / np.maximum(own_n, 1) - control_bad / np.maximum(control_n, 1))[both])
    if min(map(len, series)) < 4:
        return Bounds(0.0, -1.0, 1.0, 1.0, 0.0, "no control")
    return batch_means.difference(series[0], series[1], slo.margin, alpha, n_eff, "difference in differences")


def _means(a: Any, b: Any, mean: float, slo: Slo, alpha: float) -> Bounds:
    n_eff = min(effective(a), effective(b))
    x, y = batch_means.by_count(a) / mean, batch_means.by_count(b) / mean
    if min(len(x), len(y)) < 2:
        return Bounds(0.0, float("-inf"), float("inf"), 1.0, n_eff, "batch means")
    return batch_means.difference(x, y, slo.margin, alpha, n_eff)


def _events(seen_a: int, time_a: float, seen_b: int, time_b: float, alpha: float) -> Bounds:
    """Events in the fault window beyond what the baseline's rate explains, from exact Poisson limits."""
    scale = time_b / time_a
    high = rare.at_most(seen_b, 1.0, alpha) - rare.at_least(seen_a, 1.0, alpha) * scale
    low = (
        rare.at_least(seen_b, 1.0, alpha) - rare.at_most(seen_a, 1.0, alpha) * scale
        if seen_a
        else rare.at_least(seen_b, 1.0, alpha)
    )
    ratio = rare.rate_ratio(seen_a, time_a, seen_b, time_b, 1.0, alpha)
    return Bounds(seen_b - seen_a * scale, low, high, ratio.p_harm, GATE, ratio.method)
