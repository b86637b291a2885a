"""Latency on the connections to one port."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.toxics import Redirected


@dataclass(frozen=True)
class NetworkLatency(Redirected):
    """New TCP connections to `port` go through a proxy in the same namespace, which holds back what is sent.

    Attributes:
        delay_s, jitter_s, distribution: what the unit sends arrives so much later, give or take; the order stays.
        port: of the other side; `peer`: its IPv4 address or network (on a testbed also a node's name), "" for all;
            `user`: numeric id of who connects, -1 for all.
        rate_mbit: megabits a second of each connection; 0: as fast as it goes.
        share: of the connections, chosen by the seed.
    """

    kind = "network.latency"
    certifies = "programs whose peer answers late"
    limits = (
        "packets: retransmission, UDP and IPv6 are as they were; connections that stand when the fault begins are "
        "spared, those made under it end with it; in the host's own network whoever uses that port is hit"
    )

    delay_s: float = 0.05
