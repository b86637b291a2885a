"""What faults on packets share: which packets, and how they are named to the kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .fault import Fault, Setting
from .namespaces import Namespace, missing_tools, user_of
from .operation import Operation
from .target import Unit
from .traffic import Traffic, rules


@dataclass(frozen=True)
class NetworkFault(Fault):
    """A fault on the packets that :class:`~aiobs.chaos.traffic.Traffic` names, by rules of nftables.

    Attributes:
        port, peer, direction, user: see :class:`~aiobs.chaos.traffic.Traffic`.
    """

    takes: ClassVar[tuple[str, ...]] = ("namespace",)

    port: int = 0
    peer: str = ""
    direction: str = "both"
    user: int = -1

    @property
    def traffic(self) -> Traffic:
        """Which packets."""
        return Traffic(self.port, self.peer, self.direction, self.user)

    def check(self) -> None:
        self.traffic.check(self.kind)

    def missing(self, unit: Unit) -> list[str]:
        return cannot_change(unit, "nft", "nsenter")

    def rules(
        self, unit: Unit, setting: Setting, action: str, *, condition: str | Sequence[str] = ""
    ) -> list[Operation]:
        """The operations that do `action`, in nft's language, to these packets. Raises PlanError."""
        return rules(unit, self.traffic, setting, self.kind, action, condition=condition)


def cannot_change(unit: Unit, *tools: str) -> list[str]:
    """What lacks for a change to the unit's network, one sentence each: tools, and rights."""
    lacking = missing_tools(*tools)
    if os.geteuid() != 0 and not user_of(Namespace.of(unit.namespace).path):
        lacking.append("this network is root's: become root, or use a node of a testbed of yours, or network.proxy")
    return lacking
