"""The verdict as a probe, to be used with ``tolerance: true`` once the fault is undone and the run is recorded."""

# Chaos Toolkit reads the types of parameters: no `from __future__ import annotations` here.
import logging

from aiobs.chaos.containment.asserting import Holding, holds
from aiobs.chaos.toolkit import control, held
from aiobs.errors import PlanError

__all__ = ["bystanders_well", "contained"]

_log = logging.getLogger("chaostoolkit")


def contained(folder: str = "", spec: str = "") -> bool:
    """Whether every fault on the record of that run folder stayed where the spec permits it; no data is no pass.

    Without arguments: by the spec and the telemetry of the control, which it waits for as long as the recovery takes.
    """
    found = holds(spec, folder) if folder and spec else _of_the_run(folder, spec)
    if not found:
        _log.error("aiobs: %r", found)
    return bool(found)


def bystanders_well() -> bool:
    """Whether the control's watch has seen no bystander suffer and none fall silent; false where nothing is watched."""
    judged = control.judged()
    return judged is not None and not judged.watch.why


def _of_the_run(folder: str, spec: str) -> Holding:
    judged = control.judged()
    if folder or spec or judged is None:
        raise PlanError(
            "spec", spec, "give folder and spec here, or neither here and spec (with listen or folder) to the control"
        )
    active = [it for it in held.injections().values() if it.active]
    if active:
        raise PlanError(
            "contained", active[0].plan.fault.kind, "it is still held: undo the faults before they are judged"
        )
    over = [it for it in held.injections().values() if it.undone_ns and it.effective_ns]
    if over:
        judged.settle(max(it.undone_ns for it in over), max(it.undone_ns - it.effective_ns for it in over) / 1e9)
    return Holding(tuple(judged.verdicts()))
