"""Connections that are not made: refused at once, or reported as unreachable."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.network import NetworkFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

_ANSWERS = {
    "reset": "reject with tcp reset",
    "unreachable": "reject with icmpx type host-unreachable",
    "prohibited": "reject with icmpx type admin-prohibited",
}


@dataclass(frozen=True)
class NetworkRefuse(NetworkFault):
    """Have new TCP connections fail at once; those that stand are left alone.

    Attributes:
        how: ``reset`` (ECONNREFUSED: nobody listens there), ``unreachable`` or ``prohibited`` (EHOSTUNREACH: a router
            says that there is no way, or that it may not be gone).
        direction: ``out``: connections of the unit; ``in``: connections to it.
    """

    kind = "network.refuse"
    certifies = "programs that find a peer's port closed, or no way to its host"
    limits = "a peer that is really gone, whose silence takes a timeout to notice (network.partition)"

    direction: str = "out"
    how: str = "reset"

    def check(self) -> None:
        super().check()
        if self.how not in _ANSWERS:
            raise PlanError("network.refuse: how", self.how, f"use one of {', '.join(_ANSWERS)}")
        if self.direction == "both":
            raise PlanError("network.refuse: direction", "both", "use in or out: who connects, or who is connected to")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        condition = "meta l4proto tcp tcp flags & (syn | ack | rst) == syn"
        return self.rules(unit, setting, _ANSWERS[self.how], condition=condition)
