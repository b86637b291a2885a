"""A partition: packets are dropped, nobody is told."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.network import NetworkFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit


@dataclass(frozen=True)
class NetworkPartition(NetworkFault):
    """Drop the unit's packets, of all traffic or of what port, peer, direction and user name."""

    kind = "network.partition"
    certifies = "TCP and UDP peers that time out; one-way with direction=in or out"
    limits = "RDMA, NVLink; a cable: the interface stays up"

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        return self.rules(unit, setting, "drop")
