"""The recorder: what runs inside the user's process and writes its flight record."""

from aiobs.propagation import Context
from aiobs.recorder.around import current, current_native, innermost
from aiobs.recorder.arrivals import Arrival, write_arrivals
from aiobs.recorder.compiled import core_name
from aiobs.recorder.foreign import open_mark, set_foreign_context, wall_offset, write_span
from aiobs.recorder.opening import NOTHING, span, start_span
from aiobs.recorder.rest import write_event
from aiobs.recorder.schema import phase_id
from aiobs.recorder.spans import Span
from aiobs.recorder.state import set_resource, set_route, sleep, start, state, stop
from aiobs.recorder.steps import Phase, Step, Steps, steps
from aiobs.recorder.verbs import event, is_recording, log, trace

__all__ = [
    "NOTHING",
    "Arrival",
    "Context",
    "Phase",
    "Span",
    "Step",
    "Steps",
    "core_name",
    "current",
    "current_native",
    "event",
    "innermost",
    "is_recording",
    "log",
    "open_mark",
    "phase_id",
    "set_foreign_context",
    "set_resource",
    "set_route",
    "sleep",
    "span",
    "start",
    "start_span",
    "state",
    "steps",
    "stop",
    "trace",
    "wall_offset",
    "write_arrivals",
    "write_event",
    "write_span",
]
