"""A GPU that gets less power than it wants."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.gpus import GpuFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.power import Cap
from aiobs.chaos.power import power_limit
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class GpuPowerCap(GpuFault):
    """Lower the power limit of a GPU through NVML, a real one (as root) or a fake one; the one it had comes back.

    The whole GPU is capped, for everybody who uses it. Clocks are not locked: NVML cannot be asked what was locked
    before, so that could not be put back.

    Attributes:
        gpu: number of the GPU, from 0, as NVML counts.
        watts: its power limit meanwhile, within what the driver allows.
    """

    kind = "gpu.power_cap"
    certifies = "that a GPU short of power is noticed, and what its slowness does to the others"
    limits = "heat; one program alone; on a real GPU the limit is the driver's own, but this has been run with the fake NVML only"

    watts: float = 250.0

    def check(self) -> None:
        super().check()
        if not 1 <= self.watts <= 100_000:
            raise PlanError("gpu.power_cap: watts", self.watts, "use 1 to 100000")

    def missing(self, unit: Unit) -> list[str]:
        state = self.state(unit)
        found = power_limit(state, self.gpu)
        if found.reason:
            return [f"the power limit of GPU {self.gpu} cannot be had from NVML: {found.reason}"]
        if not state and os.geteuid() != 0:
            return ["the power limit of a real GPU is root's: become root, or use process.slow"]
        return []

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        state, milliwatts = self.state(unit), int(self.watts * 1e3)
        found = power_limit(state, self.gpu)
        if not found.reason and not found.least <= milliwatts <= found.most:
            raise PlanError(
                "gpu.power_cap: watts", self.watts, f"the driver allows {found.least / 1e3:g} to {found.most / 1e3:g}"
            )
        return [Cap(state, self.gpu, milliwatts)]
