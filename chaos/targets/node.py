"""Nodes of a testbed, and a testbed as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.place import Place, chaos_path
from aiobs.chaos.target import Target, Unit
from aiobs.chaos.testbed.bed import find_bed
from aiobs.chaos.testbed.node import Node
from aiobs.errors import PlanError
from aiobs.settings import load_settings


def _place() -> Place:
    return Place(chaos_path(load_settings()))


@dataclass(frozen=True)
class TestbedNode(Target):
    """``node:b``, or ``node:b@lab`` where several testbeds are up; ``node:*`` means every node of one."""

    __test__ = False

    scheme = "node"
    pattern = True
    example = "a"

    def resolve(self) -> list[Unit]:
        name, _, bed_name = self.value.partition("@")
        bed = find_bed(_place(), bed_name)
        found = [it for it in bed.nodes if name in ("*", it.name)]
        if not found:
            names = ", ".join(it.name for it in bed.nodes)
            raise PlanError("target", str(self), f"testbed {bed.name} has no such node; it has {names}")
        units = []
        for it in found:
            node = Node(bed, it)
            units.append(
                Unit(
                    f"{it.name}@{bed.name}", tuple(node.processes()), cgroup=node.cgroup, namespace=node.namespace,
                    interface=node.interface, address=node.address,
                    attributes=(("node", it.name), ("testbed", bed.name)),
                )
            )  # fmt: skip
        return units


@dataclass(frozen=True)
class WholeTestbed(Target):
    """``testbed:lab``: all nodes of a testbed as one unit, for faults between them."""

    scheme = "testbed"
    example = "lab"

    def resolve(self) -> list[Unit]:
        bed = find_bed(_place(), self.value)
        processes = tuple(process for it in bed.nodes for process in Node(bed, it).processes())
        return [Unit(bed.name, processes, path=bed.folder, attributes=(("testbed", bed.name),))]
