"""A tenant that asks for more than its share."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.asking import Asking
from aiobs.chaos.fault import Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class TrafficOverload(Asking):
    """Send a service requests beside its own, at random times, whatever becomes of those before (an open load).

    Attributes:
        rate: requests a second on average.
        most: no more than so many in all.
        at_once: no more than so many under way; one that comes while all are is left out, and counted.
        path: of each request, with its query.
        body: JSON text that is POSTed; "": a GET.
        tenant: on whose behalf, in the header `tenant_header`; "": no such header.
        tenant_header: name of that header.
        port: of the service, for a target that is an address without one (a node).
        answer_s: seconds after which a request is given up.
        peers: the explicit word for a service that is not on this machine: its address, once more. The plan's `within`
            has to cover it too.
    """

    kind = "traffic.overload"
    certifies = "whether limits, queues and fairness keep one tenant's load from the others"
    limits = (
        "load that comes from many machines, TLS and connection set-up storms; the worker's CPU is the service's host's"
    )

    rate: float = 50.0
    most: int = 10_000
    at_once: int = 64

    def check(self) -> None:
        super().check()
        if not 0 < self.rate <= 2000:
            raise PlanError("traffic.overload: rate", self.rate, "use requests a second above 0, at most 2000")
        if not 1 <= self.most <= 1_000_000:
            raise PlanError("traffic.overload: most", self.most, "use 1 to 1000000")
        if not 1 <= self.at_once <= 1024:
            raise PlanError("traffic.overload: at_once", self.at_once, "use 1 to 1024")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        told = {"rate": self.rate, "most": self.most, "at_once": self.at_once, "poison": False}
        return [self.worker(unit, setting, **told, seed=setting.random.randrange(1 << 32))]
