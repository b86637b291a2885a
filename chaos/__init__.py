"""Faults that always end: inject one into a process, node, network or named point, prove that it acted, undo it,
prove that nothing is left.

::

    from aiobs import chaos

    with chaos.inject("process.pause", "pid:4711", duration_s=5, armed=True) as injection:
        print(injection.evidence)

Importing this package only defines names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if __name__ != "aiobs.chaos":
    raise ImportError(f"import this package as aiobs.chaos, not as {__name__!r}")

if TYPE_CHECKING:
    from .fault import Fault, build_fault, fault_kinds
    from .lease import Injection, Lease, inject
    from .plan import Plan, build_plan
    from .recovery import recover
    from .target import Target, Unit, parse_target

_HOMES = {
    "Fault": "fault",
    "Injection": "lease",
    "Lease": "lease",
    "Plan": "plan",
    "Target": "target",
    "Unit": "target",
    "build_fault": "fault",
    "build_plan": "plan",
    "fault_kinds": "fault",
    "inject": "lease",
    "parse_target": "target",
    "recover": "recovery",
}

__all__ = [
    "Fault",
    "Injection",
    "Lease",
    "Plan",
    "Target",
    "Unit",
    "build_fault",
    "build_plan",
    "fault_kinds",
    "inject",
    "parse_target",
    "recover",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'aiobs.chaos' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"aiobs.chaos.{home}"), name)
    globals()[name] = value
    return value
