"""A link that comes and goes."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.namespaces import Namespace
from aiobs.chaos.network import cannot_change
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.link import Down
from aiobs.chaos.operations.worker import Run
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class NetworkFlap(Fault):
    """Take the unit's interface down for `down_s`, up for `up_s`, and so on.

    Attributes:
        down_s, up_s: seconds, at least 0.02.
    """

    kind = "network.flap"
    takes = ("namespace", "interface")
    certifies = "peers of a node whose link comes and goes"
    limits = "optics and negotiation: a virtual link is back at once"

    down_s: float = 0.5
    up_s: float = 1.0

    def check(self) -> None:
        for name in ("down_s", "up_s"):
            if not 0.02 <= getattr(self, name) <= 3600:
                raise PlanError(f"network.flap: {name}", getattr(self, name), "use 0.02 to 3600")

    def missing(self, unit: Unit) -> list[str]:
        return cannot_change(unit, "ip", "nsenter")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        namespace = Namespace.of(unit.namespace)
        told = {"interface": unit.interface, "down_s": self.down_s, "up_s": self.up_s}
        enters = "" if namespace.is_own else namespace.path
        return [
            Down(namespace.path, namespace.inode, unit.interface, kept=True),
            Run("flap", f"{setting.injection}-flap", json.dumps(told), setting.folder, enters=enters),
        ]
