"""The lease that the actions of one Chaos Toolkit run share."""

from __future__ import annotations

import atexit
from typing import Any

from aiobs.chaos.lease import Injection, Lease
from aiobs.errors import FaultError

_lease: list[Lease] = []
_past: dict[str, Injection] = {}


def lease(experiment: str = "") -> Lease:
    """The run's lease, opened where there is none. It ends with the control, else with the process.

    Raises:
        ArmError: injecting is not allowed here.
    """
    if not _lease:
        _lease.append(Lease(who=f"chaos run {experiment}".strip()))
        atexit.register(end)
    return _lease[0]


def open_leases() -> list[Lease]:
    """The lease that is open, none where nothing has been injected yet."""
    return list(_lease)


def injections() -> dict[str, Injection]:
    """Every injection of this run, by id, in order."""
    return {**_past, **{key: it for held in _lease for key, it in held.injections.items()}}


def undo(injection: str = "") -> list[Injection]:
    """Undo one injection, or all that are in force, the last first; again: nothing.

    Raises:
        FaultError: something is left, or there is no such injection.
    """
    known = injections()
    if injection and injection not in known:
        raise FaultError("undo", f"there is no injection {injection!r}; there are {', '.join(known) or 'none'}")
    chosen = [known[injection]] if injection else [it for it in reversed(known.values()) if it.active]
    return [it.undo() for it in chosen]


def end() -> list[str]:
    """Undo everything and end the injector; returns what is left behind."""
    if not _lease:
        return []
    held = _lease.pop()
    _past.update(held.injections)
    try:
        held.close()
    except FaultError as error:
        return list(error.residue)
    return []


def told(it: Injection) -> dict[str, Any]:
    """An injection as the journal has it: JSON-able, without secrets."""
    return {
        "injection": it.plan.id, "fault": it.plan.fault.kind, "parameters": it.plan.fault.parameters(),
        "target": str(it.plan.target), "boundary": it.plan.boundary, "seed": it.plan.seed,
        "injected_ns": it.injected_ns, "effective_ns": it.effective_ns, "undone_ns": it.undone_ns,
        "evidence": it.evidence, "because": it.because, "residue": it.residue,
    }  # fmt: skip
