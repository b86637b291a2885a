"""Connections that break: reset, or refused."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.network import NetworkFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class NetworkReset(NetworkFault):
    """Answer with a TCP reset what the unit sends: established connections break, new ones are refused.

    Attributes:
        only_new: leave established connections alone, so that only ``connect`` fails (ECONNREFUSED).
    """

    kind = "network.reset"
    certifies = "handling of ECONNRESET and ECONNREFUSED"
    limits = "a peer that is really gone: its port answers, with a reset"

    direction: str = "out"
    only_new: bool = False

    def check(self) -> None:
        super().check()
        if self.direction == "both":
            raise PlanError(
                "network.reset: direction", "both", "use in or out: a reset both ways would eat its own answer"
            )

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        # "meta l4proto tcp" is what the kernel wants to see before it lets a rule answer with a reset; the answer
        # itself comes by here on its way to a local sender and must pass.
        flags = "& (syn | ack | rst) == syn" if self.only_new else "& rst == 0x0"
        condition = f"meta l4proto tcp tcp flags {flags}"
        return self.rules(unit, setting, "reject with tcp reset", condition=condition)
