"""What happened to devices: as events on spans, as logs, as counts, and as each device's state."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiobs import names
from aiobs.device import base
from aiobs.device.base import DeviceEvent
from aiobs.telemetry import SpanEvent

OK, DEGRADED, FAILED = "ok", "degraded", "failed"
STATES = (OK, DEGRADED, FAILED)
_NAMES = {
    base.XID: names.EVENT_XID,
    base.ECC: names.EVENT_GPU_ECC,
    base.LOST: names.EVENT_GPU_LOST,
    base.RECOVERED: names.EVENT_GPU_RECOVERED,
}
FALLEN_OFF_XID = 79
"""The driver's word for a GPU that is not on its bus any more."""


def span_event(event: DeviceEvent, time_ns: int) -> SpanEvent:
    """The event as spans show it; `time_ns`: in the span's clock."""
    attributes: dict[str, Any] = {
        names.HW_ID: event.device,
        names.GPU_EVENT_NUMBER: event.number,
        names.GPU_EVENT_TEXT: event.text,
        names.GPU_EVENT_SEVERITY: event.severity,
    }
    if event.action:
        attributes[names.GPU_EVENT_ACTION] = event.action
    return SpanEvent(_NAMES.get(event.kind, names.EVENT_GPU_OTHER), time_ns, attributes)


class Health:
    """The state of each device, and how many events of which kind it had."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.errors: Counter[tuple[str, str]] = Counter()
        """By device and ``error.type``: xid_79, ecc, lost."""

    def see(self, event: DeviceEvent) -> bool:
        """Count the event in; false where it says again that a device is lost."""
        state = self.states.get(event.device, OK)
        gone = event.kind == base.LOST or (event.kind == base.XID and event.number == FALLEN_OFF_XID)
        if event.kind == base.LOST and state == FAILED:
            return False
        if event.kind == base.RECOVERED:
            self.states[event.device] = OK
            return state == FAILED
        self.states[event.device] = FAILED if gone or state == FAILED else DEGRADED
        kind = f"{event.kind}_{event.number}" if event.kind == base.XID else event.kind
        self.errors[event.device, kind] += 1
        return True

    def snapshot(self) -> list[Any]:
        """JSON-able state."""
        return [self.states, [[*key, count] for key, count in self.errors.items()]]

    def restore(self, state: list[Any]) -> None:
        """Take over what `snapshot` gave."""
        self.states = dict(state[0])
        self.errors = Counter({(device, kind): count for device, kind, count in state[1]})
