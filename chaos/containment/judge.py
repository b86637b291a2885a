"""The verdict on one fault: its cells and recoveries put together, then decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aiobs.chaos.containment.batch_means import inflation
from aiobs.chaos.containment.cells import cell
from aiobs.chaos.containment.deciding import decide
from aiobs.chaos.containment.fault_spans import windows_of
from aiobs.chaos.containment.invariants import kept
from aiobs.chaos.containment.model import Cell, Fault, Kept, Recovery, Samples, Slo, Source, Spec, Verdict, Windows
from aiobs.chaos.containment.recovery import hold_needed, recovery
from aiobs.errors import PlanError


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
        does_not_certify=(
            *[f"{it.slo} of {it.stratum}: {it.reason}" for it in cells if it.result != "held" and it.side == "outside"], *seen.trouble
        ),
    )  # fmt: skip
    found = replace(found, invariants=_invariants(spec, source, windows))
    after = [it for it in _aftermath(spec, samples, slos, windows) if it.result == "harmed" and it.holm and it.required]
    found = decide(found, spec, seen, fault, others, samples, after, aborted)
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


def _invariants(spec: Spec, source: Source, windows: Windows) -> tuple[Kept, ...]:
    facts = getattr(source, "facts", None)
    return tuple([kept(it, facts(it, windows.whole) if facts else None) for it in spec.invariants])


def _aftermath(spec: Spec, samples: Sequence[Samples], slos: dict[str, Slo], windows: Windows) -> tuple[Cell, ...]:
    """Outside cells of the time after the undo: what the end of a fault sets off (a herd of retries) is its harm too."""
    import numpy as np

    after, suspect = replace(windows, fault=windows.recovery), []
    for it in samples:
        slo = slos[it.slo]
        if it.side == "inside" or slo.kind not in ("ratio", "threshold"):
            continue
        before, later = (
            it.bad[slice(*np.searchsorted(it.start_ns, part))] for part in (windows.baseline, windows.recovery)
        )
        # Where it did not even look like harm, the exact bounds need not be worked out.
        if len(before) and len(later) and later.mean() - before.mean() > slo.margin:
            suspect.append(replace(it, took=None))
    return (
        _cells(spec, [*suspect, *[it for it in samples if it.stratum == spec.control]], slos, after) if suspect else ()
    )


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
        rate = (end - first) / (windows.baseline[1] - windows.baseline[0])
        got = recovery(
            it.start_ns, it.bad, windows.undone_ns, windows.recovery[1], windows.hold_ns, usual, slo.margin, hold_needed(slo.margin),
            inflation(it.bad[first:end]), _ill_before(it, windows, rate, usual + slo.margin), rate * 1e9,
        )  # fmt: skip
        begin, until = np.searchsorted(it.start_ns, (windows.undone_ns, windows.recovery[1]))
        expected = rate * (windows.recovery[1] - windows.undone_ns)
        # Telemetry of a bystander may be lost; what was hit and says nothing more has not come back.
        gone = got.unseen and it.side == "inside" and expected >= 20 and until - begin < 0.2 * expected
        length = (windows.recovery[1] - windows.undone_ns) / 1e9
        why = (
            f"{until - begin} requests in {length:.1f} s after the undo, where {expected:.0f} were usual: it has not come back" if gone
            else f"it was watched for {length:.1f} s after the undo, the hold alone is {windows.hold_ns / 1e9:.1f} s"
            if got.unseen and length < windows.hold_ns / 1e9 and until > begin
            else "too few requests after the undo to tell" if got.unseen
            else f"still bad {got.last_bad_s:.1f} s after the undo, when the looking ended" if got.censored
            else "it was well for a while and fell ill again" if got.relapse
            else f"well again between {got.last_bad_s:.2f} and {got.first_good_s:.2f} s after the undo" if got.first_good_s else "never ill after the undo"
        )  # fmt: skip
        unseen = got.unseen and not gone
        found.append(
            Recovery(it.stratum, it.stratum, it.slo, it.side, got.last_bad_s, got.first_good_s, got.censored, got.relapse, unseen, why)
        )  # fmt: skip
    return tuple(found)


def _ill_before(samples: Samples, windows: Windows, rate: float, limit: float) -> bool:
    """Whether the last fifth of the fault was bad, or silent where the baseline's `rate` was not."""
    import numpy as np

    begin = windows.undone_ns - (windows.undone_ns - windows.fault[0]) // 5
    first, end = np.searchsorted(samples.start_ns, (begin, windows.undone_ns))
    if end == first:
        return bool(rate * (windows.undone_ns - begin) >= 5)
    return float(samples.bad[first:end].mean()) > limit


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
