"""Latency: on the connections to one port, or on all packets."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.namespaces import Namespace
from aiobs.chaos.netem import delay, missing_netem
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.qdisc import Root
from aiobs.chaos.target import Unit
from aiobs.chaos.toxics import Redirected, ThroughProxy
from aiobs.errors import PlanError


@dataclass(frozen=True)
class NetworkLatency(Redirected):
    """New TCP connections to `port` go through a proxy in the same namespace, which holds back what is sent. Without a
    port all packets of the unit's interface are late, where the kernel has netem.

    Attributes:
        delay_s, jitter_s: what the unit sends arrives so much later, give or take; the order stays.
        distribution: of the jitter: ``uniform``, ``normal`` or ``pareto``, as in network.proxy.
        port: of the other side; 0: all packets. `peer`: its IPv4 address or network (on a testbed also a node's
            name), "" for all; `user`: numeric id of who connects, -1 for all.
        reset_standing: break the connections that stand when the fault begins, so that a pool makes new ones, which
            are hit; false: they are spared.
        rate_mbit: megabits a second of each connection; 0: as fast as it goes.
        share: of the connections, chosen by the seed.
    """

    kind = "network.latency"
    certifies = "programs whose peer answers late"
    limits = (
        "with a port: retransmission, UDP and IPv6, which are as they were; connections made under the "
        "fault end with it; in the host's own network whoever uses that port is hit"
    )

    delay_s: float = 0.05

    def check(self) -> None:
        if self.port:
            super().check()
            return
        ThroughProxy.check(self)
        for name, usual in (
            ("peer", ""),
            ("user", -1),
            ("share", 1.0),
            ("rate_mbit", 0.0),
            ("close_s", 0.0),
            ("reset_standing", False),
        ):
            if getattr(self, name) != usual:
                raise PlanError(f"network.latency: {name}", getattr(self, name), "needs a port")

    def missing(self, unit: Unit) -> list[str]:
        lacking = super().missing(unit)
        if not self.port:
            lacking += missing_netem()
            if not unit.interface:
                lacking.append("without a port it needs an interface: target interface:NAME@NAMESPACE or node:NAME")
        return lacking

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        if self.port:
            return super().operations(unit, setting)
        namespace = Namespace.of(unit.namespace)
        spec = f"netem {delay(self.delay_s, self.jitter_s, self.distribution)}"
        return [Root(namespace.path, namespace.inode, unit.interface, spec)]
