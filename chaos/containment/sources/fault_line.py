"""Fault spans as lines of a run folder: of an injection of this process, the same span that the injector records, so that
it is on the record of what was watched even where the injector's own telemetry goes elsewhere; and of a fault that is on
record somewhere else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiobs import names
from aiobs.chaos.containment.model import Fault

if TYPE_CHECKING:
    from aiobs.chaos.lease import Injection


def fault_line(it: Injection) -> bytes:
    """The line of an injection that has been undone, with its end."""
    more = {
        names.FAULT_SEED: it.plan.seed, names.FAULT_ARMED_BY: it.plan.who, names.FAULT_WHY: it.plan.why,
    }  # fmt: skip
    fault = Fault(
        it.plan.id, it.plan.fault.kind, it.injected_ns, it.effective_ns, it.undone_ns, it.plan.boundary,
        it.plan.experiment, str(it.plan.target), bool(it.effective_ns), tuple(it.residue), it.because, it.trace_id,
        it.span_id,
    )  # fmt: skip
    return line_of(fault, more, "; ".join(it.evidence))


def line_of(it: Fault, more: Mapping[str, object] | None = None, evidence: str = "") -> bytes:
    """The line of a fault, with its end; `more` are further attributes of its span."""
    made = hashlib.sha256(it.id.encode()).hexdigest()
    events = [
        (names.EVENT_FAULT_INJECTED, it.injected_ns, {}),
        (names.EVENT_FAULT_EFFECTIVE, it.effective_ns, {names.FAULT_EVIDENCE: evidence}),
        (names.EVENT_FAULT_UNDONE, it.undone_ns, {names.FAULT_UNDO_REASON: it.aborted}),
    ]
    span = {
        "traceId": it.trace_id or made[:32], "spanId": it.span_id or made[:16],
        "name": f"{names.SPAN_FAULT} {it.kind}", "kind": 1,
        "startTimeUnixNano": str(it.injected_ns), "endTimeUnixNano": str(it.undone_ns),
        "attributes": _pairs({
            names.FAULT_ID: it.id, names.FAULT_KIND: it.kind, names.FAULT_TARGET: it.target,
            names.FAULT_BOUNDARY: it.boundary, names.FAULT_EXPERIMENT: it.experiment,
            names.FAULT_VALID: it.valid is not False, names.FAULT_RESIDUE: "; ".join(it.residue), **(more or {}),
        }),
        "events": [
            {"name": name, "timeUnixNano": str(at), "attributes": _pairs(told)} for name, at, told in events if at
        ],
        "status": {},
    }  # fmt: skip
    group = {
        "resource": {"attributes": _pairs({names.SERVICE_NAME: "aiobs-chaos"})},
        "scopeSpans": [{"scope": {"name": "aiobs"}, "spans": [span]}],
    }
    return json.dumps({"resourceSpans": [group]}, separators=(",", ":")).encode() + b"\n"


def _pairs(found: Mapping[str, object]) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "value": {"boolValue": it}
            if isinstance(it, bool)
            else {"intValue": str(it)}
            if isinstance(it, int)
            else {"stringValue": str(it)},
        }
        for key, it in found.items()
        if it != ""
    ]
