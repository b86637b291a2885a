"""What a plan would do, without doing it: the same path as an injection, minus the act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiobs.errors import ArmError
from aiobs.settings import Settings

from .place import Place, chaos_path
from .plan import Plan
from .safety import require_harmless, require_permission


@dataclass(frozen=True)
class Preview:
    """A dry run.

    Attributes:
        units: labels of what would be hit.
        operations, undo: what would be done, in order, and what would undo it, in its order.
        missing: why it cannot be done here, one sentence each; empty: it can.
    """

    plan: Plan
    units: list[str]
    operations: list[str]
    undo: list[str]
    missing: list[str]

    def to_data(self) -> dict[str, Any]:
        """JSON-able."""
        fault = self.plan.fault
        return {
            "plan": self.plan.to_data(), "units": self.units, "operations": self.operations, "undo": self.undo,
            "missing": self.missing, "certifies": fault.certifies, "does_not_certify": fault.limits,
        }  # fmt: skip

    def __str__(self) -> str:
        plan = self.plan
        lines = [f"{plan.fault.kind} on {plan.target}, held {plan.duration_s:g} s, seed {plan.seed}"]
        for title, entries in (
            ("hits", self.units), ("does", self.operations), ("undone by", self.undo), ("CANNOT, because", self.missing),
        ):  # fmt: skip
            lines += [f"{title if index == 0 else '':<16}{entry}" for index, entry in enumerate(entries)]
        lines += [f"{'certifies':<16}{plan.fault.certifies}", f"{'does not':<16}{plan.fault.limits}"]
        return "\n".join(lines) + "\n"


def preview(plan: Plan, settings: Settings) -> Preview:
    """What `plan` would do here and now.

    Raises:
        PlanError: the plan itself is wrong: its target means nothing, or too much.
    """
    units = plan.units()
    missing = plan.missing(units)
    try:
        require_permission(settings, Place(chaos_path(settings)))
        require_harmless(plan, units, settings)
    except ArmError as error:
        missing.append(str(error))
    operations = [] if plan.missing(units) else plan.operations(units, "<session>")
    return Preview(
        plan, [unit.label for unit in units], [it.describe() for it in operations],
        [it.describe_undo() for it in reversed(operations)], missing,
    )  # fmt: skip
