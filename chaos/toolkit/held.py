"""The lease that the actions of one Chaos Toolkit run share."""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from aiobs.chaos.lease import Injection, Lease, Watching
from aiobs.errors import FaultError

_lease: list[Lease] = []
_past: dict[str, Injection] = {}
_handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {}
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def lease(experiment: str = "", watch: Watching | None = None) -> Lease:
    """The run's lease, opened where there is none, with `watch` over it. It ends with the control, else with the process.

    Raises:
        ArmError: injecting is not allowed here.
    """
    if not _lease:
        _lease.append(Lease(who=f"chaos run {experiment}".strip(), watch=watch))
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


def undo_on_signals() -> None:
    """Undo as soon as the run is told to end.

    Chaos Toolkit raises from its signal handlers, and what happens to run then may take that for its own error and
    go on: an action, a control, a log handler.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _ENDING:
        before = signal.getsignal(number)
        if callable(before):  # the others end the process, and with it the lease
            _handlers[number] = before
            signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    for held in _lease:
        held.let_go()
    _handlers[signal.Signals(number)](number, frame)


def end() -> list[str]:
    """Undo everything and end the injector; returns what is left behind."""
    while _handlers:
        number, before = _handlers.popitem()
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, before)
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
