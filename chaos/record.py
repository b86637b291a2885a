"""A fault on the record: its span, with the ground truth of what was done to whom and when, and a note for the
agent, by which the spans it hits point to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import aiobs
from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.fault_notes import FaultNote, write_note
from aiobs.guard import guarded
from aiobs.propagation import Context
from aiobs.recorder import start_span
from aiobs.recorder.location import runtime_dir
from aiobs.settings import load_settings

from .identity import ProcessIdentity
from .plan import Plan
from .target import Unit

if TYPE_CHECKING:
    from .held import Held


_contexts: dict[str, Context] = {}


def context_of(injection: str) -> Context | None:
    """The span of an injection of this process, for what is to link to it; `injection` may go on behind a ``-``."""
    return _contexts.get(injection.partition("-")[0])


class FaultRecord:
    """The span of one injection. A fault of the telemetry never becomes one of the injection."""

    def __init__(self, plan: Plan, units: Sequence[Unit]) -> None:
        self._span: aiobs.Span | None = None
        self._note: FaultNote | None = None
        self._runtime = Path()
        self._begin(plan, units)

    @guarded("chaos.record")
    def _begin(self, plan: Plan, units: Sequence[Unit]) -> None:
        aiobs.init(service_name="aiobs-chaos")
        self._span = start_span(
            f"{names.SPAN_FAULT} {plan.fault.kind}",
            {
                names.FAULT_ID: plan.id,
                names.FAULT_KIND: plan.fault.kind,
                names.FAULT_TARGET: str(plan.target),
                names.FAULT_UNITS: [unit.label for unit in units],
                names.FAULT_BOUNDARY: plan.boundary,
                names.FAULT_EXPERIMENT: plan.experiment,
                names.FAULT_SEED: plan.seed,
                names.FAULT_ARMED_BY: plan.who,
                names.FAULT_WHY: plan.why,
            },
        )
        _contexts[plan.id] = self._span.context

        holder = ProcessIdentity.of(os.getpid())
        processes = tuple((it.pid, it.start) for unit in units for it in unit.processes)
        context = self._span.context
        self._runtime = runtime_dir(load_settings())
        # Written before the act: what it hits may end, and be on its way to the agent, within milliseconds.
        self._note = FaultNote(
            plan.id, plan.fault.kind, context.trace_id.hex(), context.span_id.hex(), processes,
            (holder.pid, holder.start), monotonic_ns(),
        )  # fmt: skip
        write_note(self._runtime, self._note)

    @property
    def ids(self) -> tuple[str, str]:
        """Trace and span id of the span, hex; "" where it could not be begun."""
        context = self._span.context if self._span is not None else None
        return (context.trace_id.hex(), context.span_id.hex()) if context is not None else ("", "")

    @guarded("chaos.record")
    def injected(self, held: Held) -> None:
        """All its operations are done."""
        if self._span is not None:
            self._span.event(names.EVENT_FAULT_INJECTED, {}, held.injected_ns)

    @guarded("chaos.record")
    def effective(self, held: Held) -> None:
        """It has been seen to act."""
        if self._span is not None:
            self._span.event(names.EVENT_FAULT_EFFECTIVE, {names.FAULT_EVIDENCE: held.evidence}, held.effective_ns)

    @guarded("chaos.record")
    def undone(self, held: Held, because: str) -> None:
        """It is undone, or something is left."""
        if self._span is None:
            return
        self._span.set(names.FAULT_VALID, bool(held.effective_ns))
        self._span.set(names.FAULT_RESIDUE, held.residue)
        self._span.event(names.EVENT_FAULT_UNDONE, {names.FAULT_UNDO_REASON: because}, held.undone_ns)
        self._span.end()
        self._over(held.undone_ns)

    @guarded("chaos.record")
    def failed(self, error: BaseException) -> None:
        """It could not be injected."""
        if self._span is not None:
            self._span.fail(error)
            self._span.end()
            self._over(monotonic_ns())

    def _over(self, end_ns: int) -> None:
        if self._note is not None:
            write_note(self._runtime, replace(self._note, end_ns=end_ns))
