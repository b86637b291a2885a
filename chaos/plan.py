"""A plan: fault, target, how long, to how many, with which seed. The same plan does the same again."""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any

from aiobs.errors import PlanError

from .fault import Fault, Setting, build_fault
from .operation import Operation
from .target import Target, Unit, parse_target


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@dataclass(frozen=True)
class Plan:
    """See the module's text.

    Attributes:
        duration_s: how long the fault is held once it is effective; then it is undone by itself.
        effect_s: how long it may take until it is seen to act; an injection without effect is undone and invalid.
        pick: which of the target's units: "" all, ``2`` so many, ``30%`` that share (at least one), by `seed`.
        max_units: more are refused.
        within: the blast radius declared: every process, cgroup or namespace hit must be inside it.
        boundary: name of the boundary the fault may hurt.
        experiment, why, who: for the audit trail and the fault's span.
        id: of the injection.
    """

    fault: Fault
    target: Target
    duration_s: float = 30.0
    effect_s: float = 5.0
    pick: str = ""
    max_units: int = 1
    within: Target | None = None
    seed: int = 0
    boundary: str = ""
    experiment: str = ""
    why: str = ""
    who: str = field(default_factory=_who)
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def __post_init__(self) -> None:
        if not 0 < self.duration_s < float("inf"):
            raise PlanError("duration_s", self.duration_s, "use seconds above 0; a fault without an end is refused")
        if not 0 < self.effect_s < float("inf"):
            raise PlanError("effect_s", self.effect_s, "use seconds above 0")
        if self.max_units < 1:
            raise PlanError("max_units", self.max_units, "use at least 1")
        _picked(self.pick, 1)

    def units(self) -> list[Unit]:
        """The units it hits, chosen by the seed.

        Raises:
            PlanError: none, too many, outside the declared blast radius, or not of the kind the fault needs.
        """
        found = sorted(self.target.resolve(), key=lambda unit: unit.label)
        if not found:
            raise PlanError("target", str(self.target), "means nothing that is there now")
        count = _picked(self.pick, len(found))
        if count < len(found):
            chosen = Random(f"{self.seed}:units").sample(range(len(found)), count)  # noqa: S311 - to be repeatable
            found = [found[index] for index in sorted(chosen)]
        if len(found) > self.max_units:
            raise PlanError(
                "target", str(self.target), f"means {len(found)} units, and max_units allows {self.max_units}: "
                "raise it, or pick fewer (pick='1', pick='30%')",
            )  # fmt: skip
        if self.within is not None:
            radius = self.within.resolve()
            for unit in found:
                if outside := _outside(unit, radius):
                    raise PlanError("within", str(self.within), f"{outside} of the target is outside it")
        for unit in found:
            if lacking := set(self.fault.takes) - unit.facets():
                raise PlanError(
                    "target", str(self.target),
                    f"{self.fault.kind} needs {' and '.join(sorted(lacking))} of a target, which this kind does not have",
                )  # fmt: skip
            if self.within is None and self.fault.wants_radius(unit):
                raise PlanError("within", "", f"declare the blast radius: {unit.label} is beyond this machine")
        return found

    def missing(self, units: list[Unit]) -> list[str]:
        """What lacks for the fault here, one sentence each."""
        return list(dict.fromkeys(reason for unit in units for reason in self.fault.missing(unit)))

    def operations(self, units: list[Unit], folder: str) -> list[Operation]:
        """What will be done, in this order; the same for the same seed and units. Raises PlanError."""
        setting = Setting(Random(f"{self.seed}:{self.fault.kind}"), self.duration_s, self.effect_s, self.id, folder)  # noqa: S311
        return [it for unit in units for it in self.fault.operations(unit, setting)]

    def to_data(self) -> dict[str, Any]:
        """JSON-able; :func:`build_plan` reads it."""
        plain = {it.name: getattr(self, it.name) for it in fields(self) if it.name not in ("fault", "target", "within")}
        return {
            "fault": self.fault.kind,
            "parameters": self.fault.parameters(),
            "target": str(self.target),
            "within": str(self.within) if self.within else "",
            **plain,
        }


def build_plan(data: Mapping[str, Any]) -> Plan:
    """The plan that `data` describes: ``fault``, ``parameters``, ``target``, and any field of :class:`Plan`.

    Raises:
        PlanError: a field is unknown, missing or cannot be used; the message names it.
    """
    values = dict(data)
    known = {it.name: it for it in fields(Plan)}
    for name in values:
        if name not in known and name != "parameters":
            raise PlanError(name, values[name], f"no such field of a plan; there are parameters, {', '.join(known)}")
    for name in ("fault", "target"):
        if not values.get(name):
            raise PlanError(name, values.get(name), "a plan needs it")
    made: dict[str, Any] = {
        "fault": build_fault(str(values.pop("fault")), values.pop("parameters", None)),
        "target": parse_target(str(values.pop("target"))),
    }
    if within := values.pop("within", ""):
        made["within"] = parse_target(str(within))
    for name, value in values.items():
        kind = str(known[name].type)
        try:
            made[name] = {"float": float, "int": int}.get(kind, str)(value)
        except (TypeError, ValueError):
            raise PlanError(name, value, f"use {kind}") from None
    return Plan(**made)


def _picked(pick: str, of: int) -> int:
    if not pick:
        return of
    number = pick.removesuffix("%")
    if not number.isdigit() or int(number) < 1 or (pick.endswith("%") and int(number) > 100):
        raise PlanError("pick", pick, "use a whole number from 1, or a share such as 30%")
    return max(1, of * int(number) // 100) if pick.endswith("%") else min(of, int(number))


def _outside(unit: Unit, radius: list[Unit]) -> str:
    """What of `unit` is outside `radius`, "" where nothing is."""
    processes = {it for other in radius for it in other.processes}
    for process in unit.processes:
        if process not in processes:
            return str(process)
    if unit.processes and processes:
        return ""
    for name in ("cgroup", "namespace", "address", "path"):
        value = getattr(unit, name)
        if value and not any(_inside(value, getattr(other, name)) for other in radius):
            return f"{name} {value}"
    return ""


def _inside(value: str, outer: str) -> bool:
    return bool(outer) and (value == outer or value.startswith(outer.rstrip("/") + "/"))
