"""Which verdict it is: every condition of containment looked at in order of gravity, the first that fails is said.

An experiment that was stopped or proved nothing comes first, then harm outside, then what is missing, then recovery: what
cannot be trusted is not judged, and what is missing is never a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiobs.chaos.containment.amounts import in_words
from aiobs.chaos.containment.cells import silent
from aiobs.chaos.containment.model import Cell, Fault, Kind, Samples, Seen, Spec, Verdict, Windows

_SIGNIFICANT = 0.01
_UNREADABLE = 0.01
"""Share of lines; fewer are told only."""


def decide(found: Verdict, spec: Spec, seen: Seen, fault: Fault | None, others: Sequence[Fault], samples: Sequence[Samples], after: Sequence[Cell], aborted: str) -> Verdict:  # fmt: skip
    """`found` with its kind, reason and sentence; `after` are cells outside that were harmed after the undo."""
    windows = found.windows
    assert windows is not None

    def say(kind: Any, reason: str, sentence: str, strata: Sequence[str] = (), more: float = 0.0) -> Verdict:
        return replace(
            found, kind=kind, reason=reason, sentence=sentence, strata=tuple(dict.fromkeys(strata)), more_needed=more
        )

    outside = [it for it in found.cells if it.side == "outside" and it.required]
    harmed = [it for it in outside if it.result == "harmed" and it.holm]
    where = ", ".join(dict.fromkeys(it.stratum for it in harmed))
    aborted = aborted or (fault.aborted if fault else "")
    if aborted:
        also = f" Harm was shown in {where}." if harmed else ""
        return say(
            "aborted", "stopped", f"The experiment was stopped early: {aborted}.{also}", [it.stratum for it in harmed]
        )
    if seen.backwards:
        return say(
            "invalid",
            "clock",
            f"{seen.backwards} spans end before they begin: a clock stepped, so times cannot be compared. Run it again.",
        )
    if fault is not None and not fault.injected_ns <= fault.effective_ns <= fault.undone_ns:
        return say(
            "invalid",
            "clock",
            "The fault's own times are out of order (injected, effective, undone): a clock stepped. Run it again.",
        )
    if windows.fault[1] <= seen.span[0] or windows.fault[0] > seen.span[1]:
        return say(
            "invalid",
            "clock",
            "No telemetry is as old as the fault: clocks of fault and service differ, or it is the wrong folder.",
        )
    mixed = [it for it in others if it.injected_ns < windows.fault[1] and it.undone_ns > windows.fault[0]]
    if mixed and fault is not None:
        return say(
            "invalid",
            "confounded",
            f"Fault {mixed[0].kind} ({mixed[0].id}) overlapped this one: nobody can tell which did what. One at a time.",
        )
    if windows.baseline[1] - windows.baseline[0] <= 1 or not any(it.n_baseline for it in found.cells):
        return say(
            "invalid",
            "baseline",
            "There is no telemetry from before the fault: start the load earlier, or name a baseline window.",
        )
    if harmed:
        worst = max(harmed, key=lambda it: it.estimate / it.margin)
        return say(
            "leaked",
            "",
            f"Not contained: the fault reached {where}. Worst: {worst.slo} of {worst.stratum}: {worst.reason}.",
            [it.stratum for it in harmed],
        )
    broken = [it for it in found.invariants if it.result == "broken"]
    if broken:
        return say(
            "leaked", "invariant", f"Not contained: the invariant '{broken[0].name}' was broken: {broken[0].reason}."
        )
    ill = [it for it in found.cells if it.result == "baseline" and it.required]
    if ill:
        return say(
            "invalid",
            "baseline",
            f"{ill[0].slo} of {ill[0].stratum}: {ill[0].reason}. Get it healthy first, then run it again.",
        )
    lost = _hole(seen, windows)
    if lost:
        return say(
            "inconclusive",
            "no_data",
            f"All telemetry is missing for {lost:.1f} s of the experiment, or the clocks jumped ahead: nothing can be said. Check exporter and clocks, run it again.",
            more=1.0,
        )
    if seen.unreadable > _UNREADABLE:
        return say(
            "inconclusive",
            "no_data",
            f"{seen.unreadable:.0%} of the telemetry's lines cannot be read: nothing can be said of what stood in them. Mend the recording, run it again.",
            more=1.0,
        )
    if fault is not None and fault.valid is False:
        return say(
            "invalid", "no_effect", "The fault was never seen to act: the experiment proved nothing. Check its target."
        )
    inside = [it for it in found.cells if it.side == "inside"]
    if not spec.absorbed and not _felt(inside, samples, windows):
        return say(
            "invalid",
            "no_effect",
            "No SLI inside the boundary shows the fault: it proved nothing. Check the target, give it more load, or declare it absorbed.",
        )
    kinds: dict[str, Kind] = {slo.name: slo.kind for slo in spec.slos}
    over = [it for it in inside if _allowed(spec, it) is not None and it.low > (_allowed(spec, it) or 0.0)]
    if over:
        return say(
            "leaked",
            "inside",
            f"{over[0].slo} of {over[0].stratum} got worse by {in_words(kinds[over[0].slo], over[0].estimate)}: more than is allowed inside.",
            [over[0].stratum],
        )
    sick = [
        it for it in found.recoveries if (it.relapse or (it.censored and not it.unseen)) and _required(spec, it.slo)
    ]
    if sick:
        return say(
            "not_recovered",
            "metastable" if sick[0].relapse else "",
            f"{sick[0].slo} of {sick[0].stratum} did not recover: {sick[0].reason}.",
            [it.stratum for it in sick],
        )
    if after:
        worst = max(after, key=lambda it: it.estimate / it.margin)
        where = ", ".join(dict.fromkeys(it.stratum for it in after))
        return say(
            "leaked",
            "aftermath",
            f"Not contained: the fault's end hurt {where}. Worst after the undo: {worst.slo} of {worst.stratum}: {worst.reason}.",
            [it.stratum for it in after],
        )
    if not any(it.n_baseline or it.n_fault for it in outside):
        return say(
            "inconclusive",
            "no_outside_traffic",
            "Nothing outside the boundary carried traffic: there was nothing that could have been spared. Send it some load.",
            more=float("inf"),
        )
    open_cells = [it for it in outside if it.result != "held"]
    if open_cells:
        worst = max(open_cells, key=lambda it: (it.result == "no_data", it.more_needed))
        reason = "no_data" if worst.result == "no_data" else "n_eff" if "independent" in worst.reason else "wide_ci"
        return say(
            "inconclusive",
            reason,
            f"Not enough to say: {worst.slo} of {worst.stratum}: {worst.reason}.",
            [it.stratum for it in open_cells],
            worst.more_needed,
        )
    unseen = [it for it in found.recoveries if it.unseen and _required(spec, it.slo)]
    if unseen or (not found.recoveries and any(slo.kind in ("ratio", "threshold") for slo in spec.slos)):
        why = unseen[0].reason if unseen else "there is nothing from before the fault to compare with"
        which = f"{unseen[0].slo} of {unseen[0].stratum}" if unseen else "the recovery"
        return say(
            "inconclusive",
            "no_data",
            f"Held during the fault, but {which} cannot be told after it: {why}. Keep the load up longer.",
            more=2.0,
        )
    untold = [it for it in found.invariants if it.result == "unseen"]
    if untold:
        return say(
            "inconclusive",
            "no_data",
            f"All SLOs held, but whether the invariant '{untold[0].name}' did nobody can tell: {untold[0].reason}.",
        )
    strata = list(dict.fromkeys(it.stratum for it in outside))
    return say(
        "contained",
        "",
        f"Contained: the fault stayed in {', '.join(found.raw['permitted'])}; {', '.join(strata)} held, and all recovered.",
    )


def _required(spec: Spec, name: str) -> bool:
    return next(slo.required for slo in spec.slos if slo.name == name)


def _allowed(spec: Spec, it: Cell) -> float | None:
    return next(slo.allowed for slo in spec.slos if slo.name == it.slo)


def _felt(inside: Sequence[Cell], samples: Sequence[Samples], windows: Windows) -> bool:
    """Whether anything inside got worse, or fell silent or nearly so."""
    from scipy import stats

    for it in inside:
        if it.result != "baseline" and it.low > 0:
            return True
        expected = (
            it.n_baseline * (windows.fault[1] - windows.fault[0]) / max(windows.baseline[1] - windows.baseline[0], 1)
        )
        if (
            it.n_baseline
            and it.n_fault < 0.7 * expected
            and float(stats.poisson.cdf(it.n_fault, 0.9 * expected)) < _SIGNIFICANT
        ):
            return True
    # What was killed may be well again before the guard is over: for the inside that was the effect.
    whole = replace(windows, fault=(windows.injected_ns, windows.fault[1]))
    return any(silent(it, whole) for it in samples if it.side == "inside" and len(it.start_ns))


def _hole(seen: Seen, windows: Windows) -> float:
    """Seconds in which nobody at all reported, where the baseline had somebody report all the time; 0: none."""
    import numpy as np

    alive = seen.alive[(seen.alive >= windows.whole[0]) & (seen.alive < windows.whole[1])]
    before = alive[alive < windows.baseline[1]]
    if len(before) < 2:
        return 0.0
    gap = float(np.diff(np.concatenate((alive, [windows.whole[1]]))).max())
    usual = max(float(np.diff(before).max()), 1e8)
    length = windows.fault[1] - windows.fault[0]
    return gap / 1e9 if gap > 5 * usual and gap > max(0.1 * length, 5e8) else 0.0
