"""Undo what sessions left behind whose injector and watchdog both died, or which a reboot ended."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from aiobs.settings import Settings, load_settings

from .audit import append
from .place import lock, open_place
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
        held = lock(session / "lock")
        if held is None:
            continue
        try:
            account, residue = undo_session(session, patience_s=patience_s)
            if account.standing or residue:
                undone = tuple(it.operation.describe_undo() for it in account.standing)
                append(place.audit_file, {
                    "what": "undone", "session": session.name, "by": "recover", "because": "nobody held it",
                    "residue": residue, "injections": sorted({it.injection for it in account.standing}),
                })  # fmt: skip
                found.append(Recovered(session.name, undone, tuple(residue)))
            if not residue:
                shutil.rmtree(session, ignore_errors=True)
        finally:
            os.close(held)
    return found
