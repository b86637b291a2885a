"""Connections that open, and on which nothing ever arrives."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.network import NetworkFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit

_LONGEST_HEADERS = 100
"""IPv6 and TCP with all options: a longer packet carries something."""


@dataclass(frozen=True)
class NetworkBlackhole(NetworkFault):
    """Swallow what TCP connections carry, the handshake and the end excepted: they open, and then nothing comes.

    Attributes:
        direction: ``out``: what the unit sends is lost; ``in``: what it is sent; ``both``.
    """

    kind = "network.blackhole"
    certifies = "read timeouts and health checks that do more than connect"
    limits = "a peer that cannot be reached at all (network.partition); UDP; the kernels on both sides know of the loss"

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        # The kernel marks the last piece of each write with "push"; pieces before it are as long as packets get.
        content = "meta l4proto tcp tcp flags & psh == psh", f"meta l4proto tcp meta length > {_LONGEST_HEADERS}"
        return self.rules(unit, setting, "drop", condition=content)
