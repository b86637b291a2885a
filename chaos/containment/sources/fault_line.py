"""The fault span of an injection, as a line of a run folder: the same span that the injector records, so that it is
on the record of what was watched even where the injector's own telemetry goes elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiobs import names

if TYPE_CHECKING:
    from aiobs.chaos.lease import Injection


def fault_line(it: Injection) -> bytes:
    """The line, with its end."""
    events = [
        (names.EVENT_FAULT_INJECTED, it.injected_ns, {}),
        (names.EVENT_FAULT_EFFECTIVE, it.effective_ns, {names.FAULT_EVIDENCE: "; ".join(it.evidence)}),
        (names.EVENT_FAULT_UNDONE, it.undone_ns, {names.FAULT_UNDO_REASON: it.because}),
    ]
    span = {
        "traceId": it.trace_id, "spanId": it.span_id, "name": f"{names.SPAN_FAULT} {it.plan.fault.kind}", "kind": 1,
        "startTimeUnixNano": str(it.injected_ns), "endTimeUnixNano": str(it.undone_ns),
        "attributes": _pairs({
            names.FAULT_ID: it.plan.id, names.FAULT_KIND: it.plan.fault.kind, names.FAULT_TARGET: str(it.plan.target),
            names.FAULT_BOUNDARY: it.plan.boundary, names.FAULT_EXPERIMENT: it.plan.experiment,
            names.FAULT_SEED: it.plan.seed, names.FAULT_ARMED_BY: it.plan.who, names.FAULT_WHY: it.plan.why,
            names.FAULT_VALID: bool(it.effective_ns), names.FAULT_RESIDUE: "; ".join(it.residue),
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
