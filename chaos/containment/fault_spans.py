"""Faults and the windows around them, from fault spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiobs import names
from aiobs.chaos.containment.model import Fault, Seen, Spec, Windows
from aiobs.errors import PlanError

_ORDINARY = ("its time is over", "the experiment asked for it")
"""Reasons of an undo that came as planned."""


def _text(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs or ():
        value = {kind: it for kind, it in (pair.get("value") or {}).items() if it is not None}
        if "arrayValue" in value:  # such as the residue, of which there mostly is none
            found[pair["key"]] = [next(iter(it.values()), None) for it in value["arrayValue"].get("values") or ()]
        else:
            found[pair["key"]] = next(iter(value.values()), None)
    return found


NO_END = "nothing on record says that the fault was undone"
"""Why a fault counts as stopped whose injector was lost before it could tell."""


def faults_of(spans: Sequence[Mapping[str, Any]], latest_ns: int) -> tuple[Fault, ...]:
    """The faults that OTLP JSON spans tell of, by time, each once: of several tellings the one that knows most.

    Args:
        latest_ns: when the telemetry ends; so long at least a fault lasted whose end nobody told.
    """
    fullest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for span in spans:
        which = (str(span.get("traceId") or ""), str(span.get("spanId") or span.get("startTimeUnixNano")))
        if which not in fullest or _knows(span) > _knows(fullest[which]):
            fullest[which] = span
    found = [fault_of(span, latest_ns) for span in fullest.values() if int(span.get("startTimeUnixNano") or 0)]
    return tuple(sorted(found, key=lambda fault: (fault.injected_ns, fault.id)))


def _knows(span: Mapping[str, Any]) -> tuple[int, int]:
    return (len(span.get("events") or ()), int(span.get("endTimeUnixNano") or 0))


def fault_of(span: Mapping[str, Any], latest_ns: int = 0) -> Fault:
    """The fault that an OTLP JSON span tells of."""
    told = _text(span.get("attributes"))
    at = {str(event.get("name")): int(event.get("timeUnixNano") or 0) for event in span.get("events") or ()}
    because = next(
        (_text(event.get("attributes")).get(names.FAULT_UNDO_REASON, "") for event in span.get("events") or ()
         if event.get("name") == names.EVENT_FAULT_UNDONE), "",
    )  # fmt: skip
    start, end = int(span["startTimeUnixNano"]), int(span.get("endTimeUnixNano") or 0)
    injected = at.get(names.EVENT_FAULT_INJECTED) or start
    undone = at.get(names.EVENT_FAULT_UNDONE) or end
    stopped = "" if not because or because in _ORDINARY or because == "no effect was seen" else str(because)
    if not undone:
        undone, stopped = max(latest_ns, injected + 1), NO_END
    valid = told.get(names.FAULT_VALID)
    residue = told.get(names.FAULT_RESIDUE) or []
    return Fault(
        id=str(told.get(names.FAULT_ID) or span.get("spanId")), kind=str(told.get(names.FAULT_KIND) or span["name"].partition(" ")[2]),
        injected_ns=injected, effective_ns=at.get(names.EVENT_FAULT_EFFECTIVE) or injected, undone_ns=undone,
        boundary=str(told.get(names.FAULT_BOUNDARY) or ""), experiment=str(told.get(names.FAULT_EXPERIMENT) or ""),
        target=str(told.get(names.FAULT_TARGET) or ""), valid=None if valid is None else str(valid).lower() == "true",
        residue=tuple([str(it) for it in (residue if isinstance(residue, list) else [residue])]), aborted=stopped,
        trace_id=str(span.get("traceId") or ""), span_id=str(span.get("spanId") or ""),
    )  # fmt: skip


def windows_of(spec: Spec, fault: Fault | None, others: Sequence[Fault], seen: Seen) -> Windows:
    """The windows around `fault`, or those the spec gives.

    Raises:
        PlanError: there is neither a fault span nor a window by hand.
    """
    if spec.windows is not None:
        return spec.windows
    if fault is None:
        raise PlanError(
            "windows",
            "from fault spans",
            "the telemetry holds no fault span: give windows.baseline, fault and recovery by hand",
        )
    length = max(fault.undone_ns - fault.effective_ns, 1)
    guard = round(min(0.05 * length, 1e9) if spec.guard_s is None else spec.guard_s * 1e9)
    back = length if spec.baseline_s is None else round(spec.baseline_s * 1e9)
    ahead = length if spec.recovery_s is None else round(spec.recovery_s * 1e9)
    # What an earlier fault may have spoiled is no baseline, what a later one spoils no recovery.
    before = [other.undone_ns for other in others if other.undone_ns <= fault.injected_ns]
    after = [other.injected_ns for other in others if other.injected_ns >= fault.undone_ns]
    end = fault.injected_ns - guard
    first = max([end - back, seen.span[0], *[moment + guard for moment in before]])
    until = min([fault.undone_ns + ahead, max(seen.span[1] + 1, fault.undone_ns + 1), *after])
    hold = round((until - fault.undone_ns) / 2) if spec.hold_s is None else round(spec.hold_s * 1e9)
    begin = min(fault.effective_ns + guard, fault.undone_ns - 1)
    return Windows(
        (min(first, end - 1), end), (begin, fault.undone_ns), (fault.undone_ns, until), hold,
        fault.injected_ns, fault.undone_ns, fault.id,
    )  # fmt: skip
