"""A request that breaks whoever answers it."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.asking import Asking
from aiobs.chaos.fault import Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class TrafficPoison(Asking):
    """Send a service the same bad request again and again, as a caller does that retries it.

    Effective once the service itself shows it: it cuts the connection, or answers 4xx or 5xx. One that is answered well
    was no poison. What the request does to the service is not undone: its supervisor's is the recovery.

    Attributes:
        times: how often; `every_s`: seconds from one to the next.
        path: of each request, with its query.
        body: JSON text that is POSTed; "": a GET.
        tenant: on whose behalf, in the header `tenant_header`; "": no such header.
        tenant_header: name of that header.
        port: of the service, for a target that is an address without one (a node).
        answer_s: seconds after which a request is given up.
        peers: the explicit word for a service that is not on this machine: its address, once more. The plan's `within`
            has to cover it too.
    """

    kind = "traffic.poison"
    certifies = (
        "that one bad request costs its caller, not the service: no endless retry, no replica after replica lost"
    )
    limits = "poison that is not known: the request has to be given"

    times: int = 5
    every_s: float = 0.5

    def check(self) -> None:
        super().check()
        if not 1 <= self.times <= 1000:
            raise PlanError("traffic.poison: times", self.times, "use 1 to 1000")
        if not 0.01 <= self.every_s <= 60:
            raise PlanError("traffic.poison: every_s", self.every_s, "use 0.01 to 60 s")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        told = {"rate": 1 / self.every_s, "most": self.times, "at_once": self.times, "poison": True}
        return [self.worker(unit, setting, **told, seed=0)]
