"""A telemetry endpoint that cannot be reached: the program must not notice, and nothing may be lost."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.faults.service_down import cannot_cut, cut
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.chaos.targets.service import address_of
from aiobs.errors import PlanError

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")


@dataclass(frozen=True)
class TelemetryDown(Fault):
    """Cut the OTLP endpoints that stand in a program's environment, as its network namespace sees them.

    Attributes:
        how: ``refuse`` (resets) or ``drop`` (silence, so that senders wait for their time-out).
    """

    kind = "telemetry.down"
    takes = ("processes", "namespace")
    root = True
    certifies = "that a program goes on without its telemetry back end, and that the telemetry arrives afterwards"
    limits = "endpoints set in code; without root use service.down with how=pause on the endpoint's process"

    how: str = "refuse"

    def check(self) -> None:
        if self.how not in ("refuse", "drop"):
            raise PlanError("telemetry.down: how", self.how, "use refuse or drop")

    def missing(self, unit: Unit) -> list[str]:  # noqa: ARG002
        return cannot_cut()

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        variables = unit.processes[0].variables()
        found = dict.fromkeys(variables[name] for name in VARIABLES if variables.get(name))
        services = dict.fromkeys(_address(text) for text in found)
        if not services:
            raise PlanError("target", unit.label, f"has none of {', '.join(VARIABLES)} in its environment")
        if len(services) > 1:
            raise PlanError("target", unit.label, "sends to several endpoints; use service.down on the one meant")
        ((address, port),) = services
        return cut(unit, setting, self.kind, self.how, address, port)


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(text if "//" in text else f"//{text}")
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 4317)
    return address_of("telemetry.down", text, parts.hostname or "", str(port))
