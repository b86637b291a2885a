"""A group for a fault to act on: the unit's own, or one of ours made around its processes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from aiobs.errors import PlanError

from .cgroups import Cgroup
from .operation import Operation
from .operations.cgroup import Enclose
from .target import Unit


@dataclass(frozen=True)
class Enclosed:
    """Path of the group, what has to be done first so that it is there, and what lacks for that."""

    path: str
    operations: list[Operation] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def enclosed(unit: Unit, controller: str, injection: str) -> Enclosed:
    """The group for a fault that needs `controller`; only looks."""
    found = Cgroup(unit.cgroup or "/").folder(controller)
    if found is None:
        return Enclosed("", missing=[f"this machine has no cgroup controller {controller}"])
    if unit.cgroup:
        if not os.access(found[0], os.W_OK):
            return Enclosed(unit.cgroup, missing=[f"{found[0]} cannot be written: become root, or have it delegated"])
        return Enclosed(unit.cgroup)
    try:
        made = Enclose.around(unit.processes, controller, f"aiobs-chaos-{injection}-{unit.processes[0].pid}")
    except PlanError as error:
        return Enclosed("", missing=[str(error)])
    parent = Cgroup(os.path.dirname(made.path)).folder(controller)
    if parent is None or not os.access(parent[0], os.W_OK):
        return Enclosed(
            made.path, missing=[f"no cgroup can be made for {controller}: become root, or target a delegated group"]
        )
    return Enclosed(made.path, [made])
