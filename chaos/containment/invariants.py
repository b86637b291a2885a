"""What must hold of the work itself, whatever the SLOs say: none lost, none done twice, none undone, none diverged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiobs.chaos.containment.model import Facts, Invariant, Kept

_SHOWN = 3


def kept(invariant: Invariant, facts: Facts | None) -> Kept:
    """Whether `invariant` was kept; `facts` is None where the telemetry's source cannot tell."""
    if facts is None or not len(facts.value):
        why = "nothing" if facts is not None else "this source of telemetry cannot tell: judge a run folder. Nothing"
        return Kept(
            invariant.name,
            invariant.kind,
            "unseen",
            f"{why} with {invariant.attribute} was seen on the spans that it is about",
        )
    found: Kept = _CHECKS[invariant.kind](invariant, facts)
    return found


def _told(invariant: Invariant, facts: Facts, looked: int, broken: Any, fine: str, says: str) -> Kept:
    """`broken`: values that break it, in the order in which they are to be shown."""
    if not len(broken):
        return Kept(invariant.name, invariant.kind, "kept", fine, looked)
    shown = facts.texts(broken[:_SHOWN])
    more = f" and {len(broken) - len(shown)} more" if len(broken) > len(shown) else ""
    return Kept(
        invariant.name, invariant.kind, "broken", f"{says}: {', '.join(shown)}{more}", looked, len(broken), tuple(shown)
    )


def _unique(invariant: Invariant, facts: Facts) -> Kept:
    import numpy as np

    values, counts = np.unique(facts.value[facts.well], return_counts=True)
    twice = values[counts > 1]
    says = f"{len(twice)} of {len(values)} values of {invariant.attribute} were done more than once"
    return _told(
        invariant, facts, len(values), twice, f"{len(values)} values of {invariant.attribute}, each done once", says
    )


def _answered(invariant: Invariant, facts: Facts) -> Kept:
    import numpy as np

    asked = np.unique(facts.value[facts.asked])
    done = np.unique(facts.value[facts.answer & facts.well])
    if not len(asked):
        return Kept(
            invariant.name, invariant.kind, "unseen", f"nobody asked for anything that carries {invariant.attribute}"
        )
    lost = np.setdiff1d(asked, done, assume_unique=True)
    says = f"{len(lost)} of {len(asked)} values of {invariant.attribute} that were asked for were never done"
    return _told(
        invariant,
        facts,
        len(asked),
        lost,
        f"all {len(asked)} values of {invariant.attribute} that were asked for were done",
        says,
    )


def _monotonic(invariant: Invariant, facts: Facts) -> Kept:
    import numpy as np

    values, back, broken = facts.value, invariant.back, []
    saved_at, saved = facts.start_ns[facts.answer & facts.well], values[facts.answer & facts.well]
    ordered = np.argsort(saved_at, kind="stable")
    saved_at, saved = saved_at[ordered], np.maximum.accumulate(saved[ordered]) if len(saved) else saved
    looked = 0
    for group in np.unique(facts.group[facts.asked]):
        rows = np.flatnonzero(facts.asked & (facts.group == group))
        own, at = values[rows], facts.start_ns[rows]
        looked += len(own)
        highest = np.maximum.accumulate(own)
        floor = highest - back
        if invariant.by and len(saved_at):
            # Back to the last complete checkpoint is what a resume is for; before there was one, to the very begin.
            place = np.searchsorted(saved_at, at) - 1
            floor = np.where(place >= 0, np.minimum(saved[np.maximum(place, 0)], highest), -np.inf)
        elif invariant.by:
            floor = np.full(len(own), -np.inf)
        fell = np.concatenate(([False], own[1:] < own[:-1]))
        broken += [f"{own[it]:g} after {highest[it]:g}" for it in np.flatnonzero(fell & (own < floor))]
    after = "the last complete checkpoint" if invariant.by else f"{back:g} before what it had reached"
    return _told(
        invariant, facts, looked, broken, f"{invariant.attribute} never fell behind {after}",
        f"{invariant.attribute} fell behind {after} {len(broken)} times",
    )  # fmt: skip


def _equal(invariant: Invariant, facts: Facts) -> Kept:
    import numpy as np

    # Of a step that was done again after a restart, each member's last time counts.
    order = np.lexsort((facts.start_ns, facts.group, facts.at))
    at, group, values = facts.at[order], facts.group[order], facts.value[order]
    if invariant.each:
        last = np.concatenate(((at[1:] != at[:-1]) | (group[1:] != group[:-1]), [True]))
        at, values = at[last], values[last]
    begins = np.flatnonzero(np.concatenate(([True], at[1:] != at[:-1])))
    spread = np.maximum.reduceat(values, begins) - np.minimum.reduceat(values, begins)
    compared = int((np.diff(np.concatenate((begins, [len(at)]))) > 1).sum())
    apart = at[begins][spread > (invariant.tolerance if values.dtype.kind == "f" else 0)]
    if not compared:
        return Kept(
            invariant.name, invariant.kind, "unseen", f"no two spans have the same {invariant.at}: nothing to compare"
        )
    says = f"{invariant.attribute} differs at {len(apart)} of {compared} values of {invariant.at}"
    return _told(
        invariant,
        facts,
        compared,
        apart,
        f"{invariant.attribute} was the same at all {compared} values of {invariant.at}",
        says,
    )


_CHECKS: Mapping[str, Any] = {
    "unique": _unique,
    "answered": _answered,
    "monotonic": _monotonic,
    "equal": _equal,
}
