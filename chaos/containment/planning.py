"""Before the run: how many requests, how long, with what power, and what will be certified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from aiobs.chaos.containment.batch_means import WIDENED
from aiobs.chaos.containment.model import Slo, Spec
from aiobs.chaos.containment.recovery import hold_needed
from aiobs.chaos.containment.statistics import GATE
from aiobs.errors import PlanError


@dataclass(frozen=True)
class Size:
    """What one SLO needs in each window of each stratum.

    Attributes:
        requests: in each of baseline and fault.
        seconds: how long that takes at the given rate; 0: no rate was given.
    """

    slo: str
    requests: int
    hold: int
    seconds: float
    text: str


def plan(
    spec: Spec, strata: int, power: float = 0.9, rates: Mapping[str, float] | None = None, clumping: float = 1.0
) -> tuple[Size, ...]:
    """Sizes at which all of `strata` outside strata hold with probability `power`, if nothing leaks.

    Args:
        rates: SLO to requests a second in the weakest stratum.
        clumping: by how much bad requests vary more than independent ones do, as a dry run shows; 1: they do not.

    Raises:
        PlanError: `power`, `strata` or `clumping` cannot be.
    """
    if not 0 < power < 1:
        raise PlanError("power", power, "use a share between 0 and 1, such as 0.9")
    if strata < 1:
        raise PlanError("strata", strata, "nothing outside the boundary: nothing can be contained")
    if clumping < 1:
        raise PlanError("clumping", clumping, "1 for independent requests, else more")
    # The verdict takes clumps for somewhat larger than they look, so as not to be fooled by a lucky window.
    clumping *= WIDENED if clumping > 1 else 1.0
    required = [slo for slo in spec.slos if slo.required]
    tests = max(1, strata * len(required))
    return tuple(
        [_size(slo, spec.alpha, (1 - power) / tests, (rates or {}).get(slo.name, 0.0), clumping) for slo in required]
    )


def _size(slo: Slo, alpha: float, miss: float, rate: float, clumping: float) -> Size:
    from scipy import stats

    z = float(stats.norm.isf(alpha) + stats.norm.isf(miss))
    hold = hold_needed(slo.margin)
    if slo.kind in ("ratio", "threshold"):
        share = 1 - (slo.objective or 0.99)
        # At the margin the fault window's share is larger, and so is its spread.
        worse = min(share + slo.margin, 0.5)
        still, grown = 2 * share * (1 - share), share * (1 - share) + worse * (1 - worse)
        reach = float(stats.norm.isf(alpha)) * grown**0.5 + float(stats.norm.isf(miss)) * still**0.5
        requests = ceil(1.15 * clumping * (reach / slo.margin) ** 2)
        # Even without one bad request the bound must come below the margin.
        requests = max(requests, ceil(clumping * float(stats.norm.isf(alpha)) ** 2 / slo.margin), ceil(GATE * clumping))
        text = f"{slo.name}: {requests} requests in the baseline and in the fault, {hold} in the hold after it"
    elif slo.kind in ("mean", "rate"):
        # Unknown spread: one half of the mean for single values is assumed, and said.
        requests = max(ceil(1.2 * clumping * 2 * 0.25 * (z / slo.margin) ** 2), ceil(GATE * clumping))
        text = f"{slo.name}: {requests} values in each window, if single values vary by half their mean"
    else:
        requests = 0
        text = f"{slo.name}: {slo.margin:g} events more are tolerated; without a single one up to {float(stats.chi2.isf(alpha, 2)) / 2:.1f} cannot be ruled out"
    seconds = requests / rate if rate > 0 else 0.0
    return Size(
        slo.name, requests, hold, seconds, text + (f": {seconds:.0f} s at {rate:g} a second" if seconds else "")
    )
