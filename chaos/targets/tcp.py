"""A TCP address, wherever it is: what a proxy carries connections to."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.target import Target, Unit
from aiobs.chaos.targets.service import address_of


@dataclass(frozen=True)
class Tcp(Target):
    """Host and port of somebody who need not be on this machine; the fault touches the way there, not him."""

    scheme = "tcp"
    example = "10.0.0.7:8000"

    def resolve(self) -> list[Unit]:
        host, _, port = self.value.rpartition(":")
        address, number = address_of("target", str(self), host, port)
        shown = f"[{address}]" if ":" in address else address
        return [Unit(self.value, address=f"{shown}:{number}")]
