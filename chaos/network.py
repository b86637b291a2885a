"""What faults on packets share: which packets, and how they are named to the kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from .fault import Fault, Setting
from .namespaces import Namespace, missing_tools
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
        lacking = missing_tools("nft", "nsenter")
        if os.geteuid() != 0 and Namespace.of(unit.namespace).is_own:
            lacking.append(
                "packets of this host's own network are root's: become root, or use a testbed node or network.proxy"
            )
        return lacking

    def rules(self, unit: Unit, setting: Setting, action: str, *, condition: str = "") -> list[Operation]:
        """The operations that do `action`, in nft's language, to these packets. Raises PlanError."""
        return rules(unit, self.traffic, setting, self.kind, action, condition=condition)
