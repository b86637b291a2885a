"""A narrow link."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.namespaces import Namespace
from aiobs.chaos.network import cannot_change
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.qdisc import Root
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

_LARGEST_PACKET = 65536
"""With segmentation offload one packet of the queue may be as long as this; a smaller burst would stop it for ever."""


@dataclass(frozen=True)
class NetworkBandwidth(Fault):
    """Let no more than `rate_mbit` leave the unit's interface (token bucket).

    Attributes:
        rate_mbit: megabits a second, of what leaves; the other direction is the other side's interface.
        queue_s: how long a packet may wait before it is dropped.
    """

    kind = "network.bandwidth"
    takes = ("namespace", "interface")
    certifies = "behaviour over a slow link"
    limits = "latency: an idle link stays as quick as it was; RDMA"

    rate_mbit: float = 10.0
    queue_s: float = 0.2

    def check(self) -> None:
        if not 0.01 <= self.rate_mbit <= 100_000:
            raise PlanError("network.bandwidth: rate_mbit", self.rate_mbit, "use 0.01 to 100000")
        if not 0.001 <= self.queue_s <= 10:
            raise PlanError("network.bandwidth: queue_s", self.queue_s, "use 0.001 to 10")

    def missing(self, unit: Unit) -> list[str]:
        return cannot_change(unit, "tc", "nsenter")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        namespace = Namespace.of(unit.namespace)
        burst = max(_LARGEST_PACKET, int(self.rate_mbit * 1e6 / 8 * 0.005))
        spec = f"tbf rate {int(self.rate_mbit * 1e6)}bit burst {burst} latency {self.queue_s * 1e3:g}ms"
        return [Root(namespace.path, namespace.inode, unit.interface, spec)]
