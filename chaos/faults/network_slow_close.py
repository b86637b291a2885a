"""Connections that do not end when one side has closed them."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.toxics import Redirected
from aiobs.errors import PlanError


@dataclass(frozen=True)
class NetworkSlowClose(Redirected):
    """New TCP connections to `port` stay half-open: the end (FIN or reset) reaches the other side `close_s` later.

    Attributes:
        close_s: seconds; longer than the fault is held: the end comes with the end of the fault, as a reset.
        port: of the other side; `peer`, `user`: as in network.latency.
        reset_standing: as in network.latency.
        share: of the connections, chosen by the seed.
    """

    kind = "network.slow_close"
    certifies = "pools and servers whose peers are gone without their having heard of it"
    limits = (
        "keep-alive probes are answered (by the proxy), so a dead-peer detection of the kernel's is not put to the test"
    )

    close_s: float = 30.0

    def check(self) -> None:
        super().check()
        if self.close_s <= 0:
            raise PlanError(f"{self.kind}: close_s", self.close_s, "use seconds above 0, at most 3600")
