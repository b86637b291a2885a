"""Faults of single packets, where the kernel has netem."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.namespaces import Namespace
from aiobs.chaos.netem import delay, missing_netem
from aiobs.chaos.network import cannot_change
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.qdisc import Root
from aiobs.chaos.target import Unit
from aiobs.chaos.workers.proxy import DISTRIBUTIONS
from aiobs.errors import PlanError

_SHARES = ("loss_percent", "loss_correlation_percent", "duplicate_percent", "reorder_percent", "corrupt_percent")


@dataclass(frozen=True)
class NetworkNetem(Fault):
    """Delay, lose, repeat, reorder or corrupt packets that leave the unit's interface, of whatever protocol.

    Attributes:
        delay_s, jitter_s: each packet leaves so much later, give or take; with jitter packets may overtake.
        distribution: of the jitter: ``uniform``, ``normal`` or ``pareto``.
        loss_percent: of the packets; loss_correlation_percent: how much each loss depends on the one before (bursts).
        duplicate_percent, corrupt_percent: of the packets, sent twice, or with one bit flipped.
        reorder_percent: of the packets, sent at once while the others are delayed: needs `delay_s`.
    """

    kind = "network.netem"
    takes = ("namespace", "interface")
    certifies = "protocols over packets that are late, lost in bursts, doubled, out of order or corrupt"
    limits = "RDMA; what arrives (that is the other side's interface)"

    delay_s: float = 0.0
    jitter_s: float = 0.0
    distribution: str = "uniform"
    loss_percent: float = 0.0
    loss_correlation_percent: float = 0.0
    duplicate_percent: float = 0.0
    reorder_percent: float = 0.0
    corrupt_percent: float = 0.0

    def check(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 100:
                raise PlanError(f"network.netem: {name}", getattr(self, name), "use 0 to 100")
        for name in ("delay_s", "jitter_s"):
            if not 0 <= getattr(self, name) <= 600:
                raise PlanError(f"network.netem: {name}", getattr(self, name), "use 0 to 600")
        if self.distribution not in DISTRIBUTIONS:
            raise PlanError("network.netem: distribution", self.distribution, f"use one of {', '.join(DISTRIBUTIONS)}")
        if self.reorder_percent and not self.delay_s:
            raise PlanError("network.netem: reorder_percent", self.reorder_percent, "needs a delay_s to overtake")
        if not self.spec():
            raise PlanError("network.netem", "nothing", "say what is to happen to packets, such as delay_s=0.05")

    def spec(self) -> str:
        """The options of netem, in tc's language."""
        words = [delay(self.delay_s, self.jitter_s, self.distribution)]
        if self.loss_percent:
            burst = f" {self.loss_correlation_percent:g}%" if self.loss_correlation_percent else ""
            words.append(f"loss {self.loss_percent:g}%{burst}")
        shares = {it: getattr(self, f"{it}_percent") for it in ("duplicate", "reorder", "corrupt")}
        words += [f"{name} {share:g}%" for name, share in shares.items() if share]
        return " ".join(filter(None, words))

    def missing(self, unit: Unit) -> list[str]:
        return list(dict.fromkeys([*missing_netem(), *cannot_change(unit)]))

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        namespace = Namespace.of(unit.namespace)
        return [Root(namespace.path, namespace.inode, unit.interface, f"netem {self.spec()}")]
