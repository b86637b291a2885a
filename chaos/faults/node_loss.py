"""A node that is gone: its processes dead and its link cut at the same moment."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.namespaces import Namespace, missing_tools
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.link import Down
from aiobs.chaos.operations.process import Kill
from aiobs.chaos.target import Unit


@dataclass(frozen=True)
class NodeLoss(Fault):
    """Cut the link, then kill every process of the node, so that none gets to say goodbye; the link comes back at
    the end, the processes do not, unless somebody starts them.

    Attributes:
        kill: false: cut the link only, as a switch would.
    """

    kind = "node.loss"
    takes = ("namespace", "interface", "processes")
    certifies = "the sudden absence of a whole node, and of its address"
    limits = "power and hardware; what was on its disks is still there"

    kill: bool = True

    def missing(self, unit: Unit) -> list[str]:  # noqa: ARG002
        return missing_tools("ip", "nsenter")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        namespace = Namespace.of(unit.namespace)
        cut: list[Operation] = [Down(namespace.path, namespace.inode, unit.interface)]
        killed = unit.processes if self.kill else ()
        # Children first: some are set to die with their parent, and would be gone before their turn.
        return cut + [Kill(it.pid, it.start, int(signal.SIGKILL)) for it in reversed(killed)]
