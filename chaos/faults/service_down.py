"""A service that is not there: does everybody else go on without it?"""

from __future__ import annotations

import os
from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.namespaces import missing_tools
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.process import Kill, Stop
from aiobs.chaos.target import Unit
from aiobs.chaos.traffic import Traffic, rules
from aiobs.errors import PlanError


def cut(unit: Unit, setting: Setting, kind: str, how: str, address: str, port: int) -> list[Operation]:
    """The operations that ``drop`` or ``refuse`` what goes to a service, seen from the unit's network namespace."""
    if how == "drop":
        return rules(unit, Traffic(port, address), setting, kind, "drop")
    condition = "meta l4proto tcp tcp flags & rst == 0x0"
    traffic = Traffic(port, address, "out")
    return rules(unit, traffic, setting, kind, "reject with tcp reset", condition=condition)


def cannot_cut() -> list[str]:
    """What lacks for :func:`cut`."""
    lacking = missing_tools("nft", "nsenter")
    if os.geteuid() != 0:
        lacking.append("packets are root's: become root, or use service.down with how=pause")
    return lacking


@dataclass(frozen=True)
class ServiceDown(Fault):
    """Make a registry, scheduler, rendezvous store, checkpoint store or telemetry endpoint unavailable.

    Attributes:
        how: ``pause`` (the process that listens there is stopped: connections open, nobody answers), ``kill``,
            ``refuse`` (resets) or ``drop`` (silence); the last two cut packets to that address and port, as root.
    """

    kind = "service.down"
    takes = ("address",)
    certifies = (
        "whether the data plane goes on while a service of the control plane hangs, is gone or cannot be reached"
    )
    limits = "a service that answers wrongly or slowly; refuse and drop: its other clients on this host lose it too"

    how: str = "pause"

    def check(self) -> None:
        if self.how not in ("pause", "kill", "refuse", "drop"):
            raise PlanError("service.down: how", self.how, "use pause, kill, refuse or drop")

    def missing(self, unit: Unit) -> list[str]:
        if self.how in ("refuse", "drop"):
            return cannot_cut()
        if not unit.processes:
            return [f"no process of this host that we may look at listens at {unit.address}: use how=refuse or drop"]
        return []

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        if self.how == "pause":
            return [Stop(it.pid, it.start) for it in unit.processes]
        if self.how == "kill":
            return [Kill(it.pid, it.start) for it in unit.processes]
        host, _, port = unit.address.rpartition(":")
        return cut(unit, setting, self.kind, self.how, host.strip("[]"), int(port))
