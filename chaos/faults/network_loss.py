"""Packet loss."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.network import NetworkFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

_OF = 10_000


@dataclass(frozen=True)
class NetworkLoss(NetworkFault):
    """Drop a share of the unit's packets, each by itself (no bursts).

    Attributes:
        percent: above 0, at most 100, in steps of 0.01. With direction=both it applies each way.
    """

    kind = "network.loss"
    certifies = "TCP and UDP under independent loss"
    limits = "loss in bursts, and RDMA, which knows no loss of this kind"

    percent: float = 5.0

    def check(self) -> None:
        super().check()
        if not 0.01 <= self.percent <= 100:
            raise PlanError("network.loss: percent", self.percent, "use 0.01 to 100")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        share = round(self.percent * _OF / 100)
        # The counter that is evidence comes after the die: it counts what is dropped.
        return self.rules(unit, setting, "drop", condition=f"numgen random mod {_OF} < {share}")
