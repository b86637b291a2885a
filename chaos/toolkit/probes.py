"""Probes: plain truths, to be used with ``tolerance: true``."""

# Chaos Toolkit reads the types of parameters: no `from __future__ import annotations` here.
from aiobs.chaos.lease import Injection
from aiobs.chaos.place import open_place
from aiobs.chaos.toolkit import held
from aiobs.errors import FaultError
from aiobs.settings import load_settings

__all__ = ["fault_active", "fault_was_effective", "no_residue"]


def fault_active(injection: str = "") -> bool:
    """Whether that injection (or any) is in force now."""
    chosen = [_named(injection)] if injection else list(held.injections().values())
    return any(it.active for it in chosen)


def fault_was_effective(injection: str = "") -> bool:
    """Whether that injection (or every one) has been seen to act: what was not proves nothing."""
    chosen = [_named(injection)] if injection else list(held.injections().values())
    return bool(chosen) and all(it.effective_ns for it in chosen)


def no_residue() -> bool:
    """Whether everything that ended is as it was before, and no dead experiment has left anything on this host."""
    place = open_place(load_settings())
    ours = {it.session for it in held.open_leases()}
    others = [session for session in place.sessions() if session.name not in ours]
    return not others and not any(it.residue for it in held.injections().values())


def _named(injection: str) -> Injection:
    known = held.injections()
    if injection not in known:
        raise FaultError("effect", f"there is no injection {injection!r}")
    return known[injection]
