"""Nodes that may not talk to each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.grudges import SHAPES, cuts_of, spelled
from aiobs.chaos.network import cannot_change
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.grudge import Grudge
from aiobs.chaos.operations.nft import SLACK_S
from aiobs.chaos.target import Unit
from aiobs.chaos.testbed.node import Node
from aiobs.chaos.testbed.record import BedRecord, read_bed
from aiobs.errors import PlanError


@dataclass(frozen=True)
class NetworkGrudge(Fault):
    """Cut nodes of a testbed off from each other: what is sent to the other side is lost, and nobody is told.

    Attributes:
        shape: ``majority-minority``, ``halves``, ``bridge`` (two halves, and one node that sees both), ``ring`` (each
            sees its two neighbours only), ``isolate`` (one node alone), ``one-way`` (one node hears but is not
            heard), ``random`` (each pair by chance), or spelled out: ``a,b|c`` keeps two groups apart, ``a>b`` loses
            what a sends to b, ``;`` adds further cuts. Who is not named talks to everybody.
        node: the one that stands apart (in the minority, as the bridge, alone, unheard); "": the seed chooses.
        port: only what goes to or comes from that port; 0: all.
    """

    kind = "network.grudge"
    takes = ("path",)
    certifies = "what a cluster does in that partition; each direction of each cut is proved"
    limits = "RDMA, NVLink; a cable: the interfaces stay up"

    shape: str = "majority-minority"
    node: str = ""
    port: int = 0

    def check(self) -> None:
        if not 0 <= self.port <= 65535:
            raise PlanError("network.grudge: port", self.port, "use 1 to 65535, or 0 for all")
        if self.shape not in SHAPES:
            spelled(self.shape)
            if self.node:
                raise PlanError("network.grudge: node", self.node, "the shape says already who is cut off from whom")
        elif self.node and self.shape in ("ring", "random"):
            raise PlanError("network.grudge: node", self.node, f"nobody stands apart in the shape {self.shape}")

    def missing(self, unit: Unit) -> list[str]:
        bed = _bed(unit)
        return cannot_change(replace(unit, namespace=Node(bed, bed.nodes[0]).namespace), "nft", "nsenter")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        bed = _bed(unit)
        cuts = cuts_of(self.shape, [it.name for it in bed.nodes], self.node, setting.random)
        nodes = [f"{it.name} {it.address} {it.namespace} {Node(bed, it).namespace}" for it in bed.nodes]
        return [
            Grudge(
                f"aiobs_{setting.injection}", tuple(nodes), tuple(f"{a}>{b}" for a, b in cuts), self.port,
                setting.effect_s + SLACK_S,
            )
        ]  # fmt: skip


def _bed(unit: Unit) -> BedRecord:
    bed = read_bed(Path(unit.path)) if "testbed" in dict(unit.attributes) else None
    if bed is None:
        raise PlanError("target", unit.label, "network.grudge is between nodes of a testbed; write testbed:NAME")
    return bed
