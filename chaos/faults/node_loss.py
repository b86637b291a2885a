"""A node that is gone: its processes dead and its link cut at the same moment."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.namespaces import Namespace
from aiobs.chaos.network import cannot_change
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.link import Down
from aiobs.chaos.operations.node import Again, KillAll
from aiobs.chaos.operations.process import Kill
from aiobs.chaos.place import Place, chaos_path
from aiobs.chaos.target import Unit
from aiobs.chaos.testbed.bed import find_bed
from aiobs.errors import PlanError
from aiobs.settings import load_settings


@dataclass(frozen=True)
class NodeLoss(Fault):
    """Cut the link, then kill every process of the node, so that none gets to say goodbye; the link comes back at
    the end.

    Attributes:
        kill: false: cut the link only, as a switch would.
        rejoin: what becomes of the node's programs at the end. false: nothing, somebody else starts them or not.
            true: on a testbed, the commands that ran when it was lost are started again, as they were started first
            (arguments, environment, folder), with nothing of what they had in memory. What they say goes on to the
            same files or terminal; what went into a pipe goes to ``testbed-<name>-<node>.log`` in the chaos folder.
    """

    kind = "node.loss"
    takes = ("namespace", "interface")
    certifies = "the sudden absence of a whole node, and of its address"
    limits = "power and hardware; what was on its disks is still there"

    kill: bool = True
    rejoin: bool = False

    def check(self) -> None:
        if self.rejoin and not self.kill:
            raise PlanError("node.loss: rejoin", True, "with kill=false nothing ends that could be started again")

    def missing(self, unit: Unit) -> list[str]:
        return cannot_change(unit, "ip", "nsenter")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        namespace = Namespace.of(unit.namespace)
        cut: list[Operation] = [Down(namespace.path, namespace.inode, unit.interface)]
        named = dict(unit.attributes)
        if not self.kill:
            return cut
        if "testbed" not in named:
            if self.rejoin:
                raise PlanError("node.loss: rejoin", True, "what to start again is known of a testbed's nodes only")
            if not unit.processes:
                raise PlanError("target", unit.label, "nothing runs there that could be lost; kill=false cuts the link")
            return cut + [Kill(it.pid, it.start, int(signal.SIGKILL)) for it in unit.processes]
        place = Place(chaos_path(load_settings()))
        bed = find_bed(place, named["testbed"])
        lost: list[Operation] = [*cut, KillAll(bed.folder, named["node"])]
        if not self.rejoin:
            return lost
        log = Path(place.path) / f"testbed-{bed.name}-{named['node']}.log"
        return [Again(bed.folder, named["node"], str(log)), *lost]
