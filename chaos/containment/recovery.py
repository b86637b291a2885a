"""When was it well again? The last bad stretch after the undo, its end as an interval, and whether it stayed well."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any

_MISSED = 20.0
_DOUBT = 0.005
"""Risk of taking strays of an SLI's ordinary share for a bad stretch."""
_APART = 0.05
"""Share of the hold: bad requests this close together belong to one illness."""
_FEW = 6
"""Fewer bad requests by themselves are no illness."""


@dataclass(frozen=True)
class Stretch:
    """A bad stretch: places of its first and its last bad request."""

    first: int
    last: int


def bad_stretches(bad: Any, ordinary: float, unwell: float, clumping: float = 1.0) -> list[Stretch]:
    """Stretches in which `bad` clearly runs at `unwell` or worse rather than at `ordinary`.

    A sum of log-likelihood ratios that restarts at 0 finds them; where one ends is then settled with the share seen
    in it, so that a stray bad request some time after an outage is not counted to it. Where bad requests come in
    clumps (of `clumping` at a time, as retries and batches do), so many count as one: a clump is no outage.
    """
    import numpy as np

    flags = np.asarray(bad, dtype=bool)
    if not len(flags):
        return []
    limit = clumping * log(len(flags) / _DOUBT)
    found, begin = [], 0
    while begin < len(flags):
        rise, fall = log(unwell / ordinary), log((1 - unwell) / (1 - ordinary))
        sums = np.cumsum(np.where(flags[begin:], rise, fall))
        above = sums - np.minimum(np.minimum.accumulate(sums), 0.0)
        if not (above >= limit).any():
            break
        alarm = int(np.argmax(above >= limit))
        low = int(np.argmin(sums[:alarm])) if alarm and sums[:alarm].min() < 0 else -1
        # It ends at the top from which the sum comes down by `limit`, or where the flags end.
        tail = above[alarm:]
        fallen = np.maximum.accumulate(tail) - tail >= limit
        over = int(np.argmax(fallen)) if fallen.any() else len(tail)
        first = begin + low + 1
        end = begin + alarm + over
        share = min(max(float(flags[first : begin + alarm + 1].mean()), unwell), 0.999)
        sharp = np.cumsum(np.where(flags[first:end], log(share / ordinary), log((1 - share) / (1 - ordinary))))
        last = first + int(np.argmax(sharp))
        found.append(Stretch(first + int(np.argmax(flags[first : last + 1])), last))
        begin = max(last + 1, begin + alarm + 1)
    return found


@dataclass(frozen=True)
class Recovered:
    """Places are seconds from the undo; see :class:`~aiobs.chaos.containment.model.Recovery`."""

    last_bad_s: float
    first_good_s: float
    censored: bool = False
    relapse: bool = False
    unseen: bool = False


def recovery(start_ns: Any, bad: Any, undone_ns: int, until_ns: int, hold_ns: int, ordinary: float, margin: float,
             needed: int, clumping: float = 1.0, ill: bool = False, rate: float = 0.0) -> Recovered:  # fmt: skip
    """When requests that began at `start_ns` were well again, up to `until_ns`.

    Args:
        ordinary: the baseline's share of bad ones.
        margin: growth of it that still counts as well.
        needed: good requests in the hold below which nothing is shown.
        clumping: by how much the baseline's bad ones vary more than independent ones do.
        ill: whether it was ill before the undo; to be well after it and ill again is then a relapse.
        rate: the baseline's requests a second: what is silent so long that 20 are missed is not well before it is heard.
    """
    import numpy as np

    looked = (start_ns >= undone_ns) & (start_ns < until_ns)
    at = (start_ns[looked] - undone_ns) / 1e9
    flags = np.asarray(bad, dtype=bool)[looked]
    end = (until_ns - undone_ns) / 1e9
    if not len(at):
        return Recovered(0.0, end, censored=True, unseen=True)
    usual = min(max(ordinary, 0.5 / (len(at) + 1), 1e-4), 0.98)
    stretches = _of_weight(
        bad_stretches(flags, usual, min(usual + 2 * margin, 0.99), clumping), at, flags, hold_ns, margin
    )
    again = _relapsed(at, stretches, hold_ns) or (
        ill and bool(stretches) and _was_well(at, flags, stretches[0], hold_ns)
    )
    last = float(at[stretches[-1].last]) if stretches else 0.0
    after = at[stretches[-1].last + 1 :] if stretches else at
    first = float(after[0]) if len(after) else end
    well = first if stretches or rate * at[0] >= _MISSED else 0.0
    if end < hold_ns / 1e9 * 0.999:
        return Recovered(last, end, censored=True, unseen=True)
    if not len(after) or end - well < hold_ns / 1e9 * 0.999:
        return Recovered(last, end, censored=True, relapse=again)
    hold = after[after < well + hold_ns / 1e9]
    if len(hold) < needed:
        return Recovered(last, first, censored=True, unseen=True)
    return Recovered(last, well, relapse=again)


def _of_weight(found: list[Stretch], at: Any, flags: Any, hold_ns: int, margin: float) -> list[Stretch]:
    """Without the stretches that come by themselves and are too small to bring a hold beyond the margin: two clumps of
    ordinary trouble that fell together, not an illness. What follows closely on the undo or on another goes with it."""
    kept: list[Stretch] = []
    until = float(at[0]) if len(at) else 0.0
    for it in found:
        near = float(at[it.first]) - until <= _APART * hold_ns / 1e9
        in_hold = ((at >= at[it.first]) & (at < at[it.first] + hold_ns / 1e9)).sum()
        if near or flags[it.first : it.last + 1].sum() >= max(_FEW, margin * in_hold):
            kept.append(it)
            until = float(at[it.last])
    return kept


def _relapsed(at: Any, stretches: list[Stretch], hold_ns: int) -> bool:
    """Whether it was well for a while, less than the hold or more, and fell ill again."""
    gaps = [float(at[b.first] - at[a.last]) for a, b in pairwise(stretches)]
    return any(gap > _APART * hold_ns / 1e9 for gap in gaps)


def _was_well(at: Any, flags: Any, first: Stretch, hold_ns: int) -> bool:
    """Whether it was well between the undo and the first stretch: for some time, and over more good requests than an
    illness like that stretch would let pass."""
    if not first.first or at[first.first] - at[0] <= _APART * hold_ns / 1e9:
        return False
    share = min(float(flags[first.first : first.last + 1].mean()), 0.999)
    return bool(first.first >= max(8.0, log(_DOUBT) / log(1 - share)))


def hold_needed(margin: float, doubt: float = 0.05) -> int:
    """Clean requests after which a system failing `margin` more of them would have shown it: 59 at 5 %, 299 at 1 %."""
    from math import ceil

    return max(3, ceil(log(doubt) / log(1 - min(max(margin, 1e-4), 0.9))))
