"""Undo what sessions left behind whose injector and watchdog both died, or which a reboot ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiobs.guard import say_once
from aiobs.settings import Settings, load_settings

from .audit import append
from .place import Place, lock, open_place, read_owner
from .testbed.teardown import sweep
from .undoing import PROOF_S, undo_session


@dataclass(frozen=True)
class Recovered:
    """What was done about one session: what had stood, described, and what is left of it."""

    session: str
    undone: tuple[str, ...]
    residue: tuple[str, ...]


def recover(settings: Settings | None = None, *, patience_s: float = PROOF_S) -> list[Recovered]:
    """Undo everything that no living injector or watchdog holds. Every start of an injector does this first.

    Raises:
        ArmError: the chaos folder cannot be used.
    """
    place = open_place(settings or load_settings())
    found = []
    for session in place.sessions():
        held = _taken(session, patience_s)
        if held is None:
            continue
        try:
            account, residue = undo_session(session, patience_s=patience_s)
            if account.standing or residue:
                undone = tuple(it.operation.describe_undo() for it in account.standing)
                _audit(place, {
                    "what": "undone", "session": session.name, "by": "recover", "because": "nobody held it",
                    "residue": residue, "injections": sorted({it.injection for it in account.standing}),
                })  # fmt: skip
                found.append(Recovered(session.name, undone, tuple(residue)))
            if not residue:
                shutil.rmtree(session, ignore_errors=True)
        finally:
            os.close(held)
    found += [Recovered(it.name, (f"take down testbed {it.name}",), tuple(it.residue)) for it in sweep(place)]
    return found


def _audit(place: Place, entry: Mapping[str, Any]) -> None:
    try:
        append(place.audit_file, entry)
    except OSError as error:  # a full disk must not keep the other sessions from being undone
        say_once("chaos.audit", "aiobs: the audit trail cannot be written: %s", error)


def _taken(session: Path, patience_s: float) -> int | None:
    """The session's lock, None where somebody living has it. One whose injector has just died is waited for: its
    watchdog may be at work, or both be on their way out."""
    deadline = time.monotonic() + patience_s
    while True:
        held = lock(session / "lock")
        owner = read_owner(session)
        if held is not None or owner is None or owner.process().is_alive() or time.monotonic() > deadline:
            return held
        time.sleep(0.005)
