"""The verdict: every condition of containment looked at, the gravest finding said in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiobs.chaos.containment.amounts import in_words
from aiobs.chaos.containment.batch_means import inflation
from aiobs.chaos.containment.cells import cell, silent
from aiobs.chaos.containment.fault_spans import windows_of
from aiobs.chaos.containment.model import Cell, Fault, Recovery, Samples, Seen, Slo, Source, Spec, Verdict, Windows
from aiobs.chaos.containment.recovery import hold_needed, recovery
from aiobs.errors import PlanError

_SIGNIFICANT = 0.01


def judge(spec: Spec, source: Source, fault: Fault | None = None, aborted: str = "") -> Verdict:
    """Judge one fault: `fault`, or the only one on the record; `aborted` says why the experiment was stopped early.

    Raises:
        PlanError: there is nothing to judge by: no fault, no window, or no permitted boundary.
    """
    seen, faults = source.seen(), source.faults()
    if fault is None and len(faults) > 1 and spec.windows is None:
        raise PlanError("fault", ", ".join(it.id for it in faults), "there are several: say which one")
    fault = fault or (faults[0] if len(faults) == 1 else None)
    permitted = spec.permitted or ((fault.boundary,) if fault and fault.boundary else ())
    if not permitted:
        raise PlanError("permitted", "", "name the boundaries that the fault may hurt; no fault span names one either")
    others = [other for other in faults if fault is None or other.id != fault.id]
    windows = windows_of(spec, fault, others, seen)
    samples = source.samples(spec, permitted)
    slos = {slo.name: slo for slo in spec.slos}
    cells, recoveries = _cells(spec, samples, slos, windows), _recoveries(samples, slos, windows)
    found = Verdict(
        "contained", "", cells, recoveries, fault=fault, windows=windows, observed=_observed(cells),
        budget=_budget(cells, slos, windows), raw={"spans": seen.spans, "duplicates": seen.duplicates, "alpha": spec.alpha, "permitted": list(permitted),
             "kinds": {slo.name: slo.kind for slo in spec.slos}},
        certifies=tuple(f"{it.slo} of {it.stratum}: {it.reason}" for it in cells if it.result == "held" and it.side == "outside"),
        does_not_certify=tuple(f"{it.slo} of {it.stratum}: {it.reason}" for it in cells if it.result != "held" and it.side == "outside"),
    )  # fmt: skip
    found = _decide(found, spec, seen, fault, others, samples, aborted)
    if fault is not None and fault.residue:
        left = f"The fault's undo left something behind: {'; '.join(fault.residue)}. Clean it up (aiobs chaos recover). Apart from that: {found.sentence}"
        return replace(found, kind="residue", beside=found.kind, sentence=left)
    return found


def _cells(spec: Spec, samples: Sequence[Samples], slos: dict[str, Slo], windows: Windows) -> tuple[Cell, ...]:
    controls = {it.slo: it for it in samples if it.stratum == spec.control}
    # A stratum without a single span of any SLO is not there; "everything else" often is not. One that carries some SLOs
    # is judged by these: ranks have no requests, replicas no steps.
    carried = {it.stratum for it in samples if len(it.start_ns) or it.dropped}
    declared = {boundary.name for boundary in spec.boundaries}
    found = [
        cell(
            it,
            slos[it.slo],
            windows,
            spec.alpha,
            None if it.stratum == spec.control or it.side == "inside" else controls.get(it.slo),
        )
        for it in samples
        if len(it.start_ns)
        or it.dropped
        or (it.stratum not in carried and (it.stratum in declared or it.side == "inside"))
    ]
    found = [it for it in found if it.side == "inside" or it.n_baseline or it.n_fault or it.stratum in declared]
    harmed = sorted((it for it in found if it.side == "outside" and it.result == "harmed"), key=lambda it: it.p_harm)
    named, tests = set(), sum(1 for it in found if it.side == "outside")
    for place, it in enumerate(harmed):
        if it.p_harm > spec.alpha / (tests - place):
            break
        named.add((it.stratum, it.slo))
    return tuple([replace(it, holm=(it.stratum, it.slo) in named) for it in found])


def _recoveries(samples: Sequence[Samples], slos: dict[str, Slo], windows: Windows) -> tuple[Recovery, ...]:
    import numpy as np

    found = []
    for it in samples:
        slo = slos[it.slo]
        if slo.kind not in ("ratio", "threshold"):
            continue
        first, end = np.searchsorted(it.start_ns, windows.baseline)
        if end == first or windows.recovery[1] <= windows.undone_ns:
            continue
        usual = float(it.bad[first:end].mean())
        got = recovery(
            it.start_ns,
            it.bad,
            windows.undone_ns,
            windows.recovery[1],
            windows.hold_ns,
            usual,
            slo.margin,
            hold_needed(slo.margin),
            inflation(it.bad[first:end]),
            (end - first) * 1e9 / (windows.baseline[1] - windows.baseline[0]),
        )
        why = (
            "too few requests after the undo to tell" if got.unseen
            else f"still bad {got.last_bad_s:.1f} s after the undo, when the looking ended" if got.censored
            else "it was well for a while and fell ill again" if got.relapse
            else f"well again between {got.last_bad_s:.2f} and {got.first_good_s:.2f} s after the undo" if got.first_good_s else "never ill after the undo"
        )  # fmt: skip
        found.append(
            Recovery(
                it.stratum,
                it.stratum,
                it.slo,
                it.side,
                got.last_bad_s,
                got.first_good_s,
                got.censored,
                got.relapse,
                got.unseen,
                why,
            )
        )
    return tuple(found)


def _decide(found: Verdict, spec: Spec, seen: Seen, fault: Fault | None, others: Sequence[Fault], samples: Sequence[Samples], aborted: str) -> Verdict:  # fmt: skip
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
            f"All telemetry is missing for {lost:.1f} s of the experiment: nothing can be said. Check the exporter, run it again.",
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
    slos = {slo.name: slo for slo in spec.slos}
    over = [it for it in inside if _allowed(spec, it) is not None and it.low > (_allowed(spec, it) or 0.0)]
    if over:
        return say(
            "leaked",
            "inside",
            f"{over[0].slo} of {over[0].stratum} got worse by {in_words(slos[over[0].slo].kind, over[0].estimate)}: more than is allowed inside.",
            [over[0].stratum],
        )
    sick = [
        it
        for it in found.recoveries
        if (it.relapse or (it.censored and not it.unseen) or (it.unseen and it.side == "inside"))
        and _required(spec, it.slo)
    ]
    if sick:
        return say(
            "not_recovered",
            "metastable" if sick[0].relapse else "",
            f"{sick[0].slo} of {sick[0].stratum} did not recover: {sick[0].reason}.",
            [it.stratum for it in sick],
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
        which = f"{unseen[0].slo} of {unseen[0].stratum}" if unseen else "the recovery"
        return say(
            "inconclusive",
            "no_data",
            f"Held during the fault, but {which} cannot be told after it: too few requests. Keep the load up longer.",
            more=2.0,
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


def _observed(cells: Sequence[Cell]) -> float:
    """Share of outside requests that were in strata not shown unharmed."""
    sizes = {
        it.stratum: max(one.n_fault for one in cells if one.stratum == it.stratum)
        for it in cells
        if it.side == "outside"
    }
    hurt = {it.stratum for it in cells if it.side == "outside" and it.required and it.result != "held"}
    return sum(sizes[name] for name in hurt) / max(sum(sizes.values()), 1)


def _budget(cells: Sequence[Cell], slos: dict[str, Slo], windows: Windows) -> dict[str, float]:
    """Share of the whole error budget that the fault window burned outside, the worst stratum of each SLO."""
    days = (windows.fault[1] - windows.fault[0]) / 86400e9
    found: dict[str, float] = {}
    for it in cells:
        objective = slos[it.slo].objective
        shares = slos[it.slo].kind in ("ratio", "threshold")
        if it.side == "outside" and shares and objective is not None and it.n_fault:
            burned = it.fault / (1 - objective) * days / slos[it.slo].budget_days
            found[it.slo] = max(found.get(it.slo, 0.0), burned)
    return found
