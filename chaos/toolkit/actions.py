"""Actions: one for each fault, named after it (``network.partition`` is ``network_partition``), and their undoing.

Each takes the fault's parameters by name, and of the plan ``target``, ``duration_s``, ``effect_s``, ``pick``,
``max_units``, ``within``, ``seed``, ``boundary``, ``why`` and ``dry_run``. It returns when the fault has been seen
to act; the fault ends when its duration is over, by :func:`undo_faults`, or with the run.
"""

# Chaos Toolkit reads the types of parameters: no `from __future__ import annotations` here.
import inspect
import os
import time
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from aiobs.chaos.fault import Fault, fault_kinds
from aiobs.chaos.plan import build_plan
from aiobs.chaos.preview import preview
from aiobs.chaos.toolkit import held
from aiobs.settings import load_settings

DRY_RUN = "AIOBS_CHAOS_DRY_RUN"
"""Environment variable: 1 makes every action a dry run, whatever the experiment says."""

_PLAN: dict[str, tuple[type, object]] = {
    "target": (str, inspect.Parameter.empty), "duration_s": (float, 30.0), "effect_s": (float, 5.0), "pick": (str, ""),
    "max_units": (int, 1), "within": (str, ""), "seed": (int, 0), "boundary": (str, ""), "why": (str, ""),
    "dry_run": (bool, False),
}  # fmt: skip
_TYPES = {"bool": bool, "int": int, "float": float, "str": str}


def undo_faults(injection: str = "") -> dict:  # type: ignore[type-arg]
    """Undo one injection by its id, or all that are in force; again: nothing. Use it as a rollback."""
    return {"undone": [held.told(it) for it in held.undo(injection)]}


def hold(seconds: float) -> dict:  # type: ignore[type-arg]
    """Let the faults act for so long."""
    time.sleep(seconds)
    return {"held_s": seconds, "active": [it.plan.id for it in held.injections().values() if it.active]}


def _action(kind: str, made: type[Fault]) -> Callable[..., dict[str, Any]]:
    own = {field.name for field in fields(made)}

    def inject(**values: Any) -> dict[str, Any]:
        parameters = {name: value for name, value in values.items() if name in own}
        plan = build_plan(
            {"fault": kind, "parameters": parameters}
            | {name: value for name, value in values.items() if name not in own and name != "dry_run"}
        )
        if values.get("dry_run") or os.environ.get(DRY_RUN) == "1":
            return preview(plan, load_settings()).to_data()
        return held.told(held.lease().inject(plan))

    required = [field for field in fields(made) if field.default is MISSING]
    optional = [field for field in fields(made) if field.default is not MISSING]
    parameters = [_parameter("target", *_PLAN["target"])]
    parameters += [_parameter(it.name, _TYPES.get(str(it.type), str), inspect.Parameter.empty) for it in required]
    parameters += [_parameter(it.name, _TYPES.get(str(it.type), str), it.default) for it in optional]
    parameters += [_parameter(name, *it) for name, it in _PLAN.items() if name not in own and name != "target"]
    inject.__name__ = inject.__qualname__ = kind.replace(".", "_")
    inject.__doc__ = f"{made.__doc__}\n\nCertifies: {made.certifies}. Does not: {made.limits}."
    inject.__signature__ = inspect.Signature(parameters, return_annotation=dict)  # type: ignore[attr-defined]
    return inject


def _parameter(name: str, kind: type, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)


_ACTIONS = {it.__name__: it for it in (_action(kind, made) for kind, made in fault_kinds().items())}
globals().update(_ACTIONS)

__all__ = ["hold", "undo_faults", *_ACTIONS]  # pyright: ignore[reportUnsupportedDunderAll]
