"""Latency on the connections to one port."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.namespaces import Namespace, missing_tools
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.nft import GATE, SLACK_S, Table
from aiobs.chaos.target import Unit
from aiobs.chaos.toxics import ThroughProxy
from aiobs.chaos.traffic import Traffic
from aiobs.chaos.workers.proxy import MARK
from aiobs.errors import PlanError


@dataclass(frozen=True)
class NetworkLatency(ThroughProxy):
    """New TCP connections to `port` go through a proxy in the same namespace, which holds back what is sent.

    Attributes:
        delay_s, jitter_s: what the unit sends arrives so much later, give or take; the order stays.
        port: of the other side; `peer`: its IPv4 address or network, "" for all.
        rate_mbit: megabits a second of each connection; 0: as fast as it goes.
        share: of the connections, chosen by the seed.
    """

    kind = "network.latency"
    takes = ("namespace",)
    root = True
    certifies = "programs whose peer answers late"
    limits = "packets: retransmission, UDP and IPv6 are as they were; connections that stand when the fault begins are spared, those made under it end with it"

    delay_s: float = 0.05
    port: int = 0
    peer: str = ""

    def check(self) -> None:
        super().check()
        if not 1 <= self.port <= 65535:
            raise PlanError(
                "network.latency: port", self.port, "use 1 to 65535: the port whose connections are delayed"
            )
        Traffic(self.port, self.peer).check(self.kind)

    def missing(self, unit: Unit) -> list[str]:  # noqa: ARG002
        lacking = missing_tools("nft", "nsenter")
        if os.geteuid() != 0:
            lacking.append(
                "redirecting connections is root's: become root, or put network.proxy between client and server"
            )
        return lacking

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        namespace = Namespace.of(unit.namespace)
        listen = setting.random.randrange(40_000, 60_000)
        peer = f"ip daddr {{ {self.peer} }} " if self.peer else ""
        rule = f"{GATE} meta mark != {MARK} {peer}tcp dport {self.port} counter redirect to :{listen}"
        chain = f"chain output {{ type nat hook output priority -100; policy accept;\n{rule}\n}}"
        return [
            self.worker(setting, ("0.0.0.0", listen), enters="" if namespace.is_own else namespace.path),  # noqa: S104 - of the unit's namespace
            Table(namespace.path, namespace.inode, f"aiobs_{setting.injection}", (chain,), setting.effect_s + SLACK_S),
        ]
