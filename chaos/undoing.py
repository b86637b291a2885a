"""Undo what a journal says still stands, and prove it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aiobs.guard import say_once

from .hands import end_hands
from .journal import Account, Journal, Standing, read_journal

PROOF_S = 5.0
"""How long an undone operation may take to show."""
_TICK_S = 0.005


def undo_all(
    standing: Sequence[Standing], done: Callable[[Standing], None], *, patience_s: float = PROOF_S
) -> list[str]:
    """Undo in reverse order, and again until nothing is left or `patience_s` is over.

    All are undone once before any is waited for: one that is slow or broken keeps no other in force.

    Args:
        done: called for each operation as it is seen to be undone.

    Returns:
        What is left, one sentence each.
    """
    left = list(reversed(standing))
    deadline = time.monotonic() + patience_s
    while True:
        residues = {}
        for it in left:
            residues[id(it)] = residue = _undo(it)
            if not residue:
                done(it)
        left = [it for it in left if residues[id(it)]]
        if not left or time.monotonic() >= deadline:
            return [f"{it.operation.kind}: {residues[id(it)]}" for it in left]
        time.sleep(_TICK_S)


def _undo(it: Standing) -> str:
    try:
        it.operation.undo(it.before)
        return it.operation.residue(it.before)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with one, the others must be undone
        say_once(f"undo:{id(it)}", "aiobs: %s: %s", it.operation.describe_undo(), error)
        return f"{it.operation.describe_undo()} failed: {error}"


def undo_session(session: Path, *, patience_s: float = PROOF_S) -> tuple[Account, list[str]]:
    """Undo what the journal of a session says still stands. The caller holds the session's lock.

    Returns:
        What the journal said, and what is left after undoing.
    """
    residue = end_hands(session.name)  # before the journal is read: they may have been about to act
    account = read_journal(session)
    residue += [f"unreadable: {line}" for line in account.unreadable]
    if not account.standing:
        return account, residue
    journal: Journal | None = None
    try:
        journal = Journal(session)
    except Exception as error:  # noqa: BLE001 - a full disk must not keep anything from being undone
        say_once(f"journal:{session}", "aiobs: %s; what is undone now will be undone again at the next start", error)

    def done(it: Standing) -> None:
        if journal is not None:
            try:
                journal.undone(it.injection, it.index)
            except Exception as error:  # noqa: BLE001 - the same
                say_once(f"journal:{session}", "aiobs: %s", error)

    residue += undo_all(account.standing, done, patience_s=patience_s)
    if journal is not None:
        journal.close()
    return account, residue
