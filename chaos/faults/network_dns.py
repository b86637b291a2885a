"""Names that do not resolve."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.network import NetworkFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class NetworkDns(NetworkFault):
    """Drop or refuse what the unit asks on port 53, over UDP and TCP.

    Attributes:
        how: ``drop``: questions are not answered (resolvers time out after seconds); ``refuse``: they fail at once.
    """

    kind = "network.dns"
    certifies = "programs that ask DNS anew while it is gone"
    limits = "names in a cache or in /etc/hosts, DNS over HTTPS, wrong answers"

    port: int = 53
    direction: str = "out"
    how: str = "drop"

    def check(self) -> None:
        super().check()
        if self.how not in ("drop", "refuse"):
            raise PlanError("network.dns: how", self.how, "use drop or refuse")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        return self.rules(unit, setting, "drop" if self.how == "drop" else "reject with icmpx type port-unreachable")
