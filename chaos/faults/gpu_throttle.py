"""A GPU that is held back: hot, or short of power."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.gpus import GpuFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.gpu import Readings
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

REASONS = {"thermal": 0x40, "power": 0x4}
"""NVML's clocks event reasons: hardware thermal slowdown, software power cap."""


@dataclass(frozen=True)
class GpuThrottle(GpuFault):
    """Let a fake GPU report lowered clocks and why: heat, or a power cap.

    Attributes:
        gpu: number of the GPU, from 0.
        cause: ``thermal`` or ``power``.
        clock_mhz: its SM clock meanwhile.
        celsius: its temperature, with ``thermal``; watts: its power limit, with ``power``.
    """

    kind = "gpu.throttle"
    certifies = "that telemetry shows a throttled GPU, and why"
    limits = "slower computation (use process.slow); a real GPU (fake NVML only, not run on a real GPU)"

    cause: str = "thermal"
    clock_mhz: int = 210
    celsius: int = 92
    watts: float = 200.0

    def check(self) -> None:
        super().check()
        if self.cause not in REASONS:
            raise PlanError("gpu.throttle: cause", self.cause, "use thermal or power")
        for name, most in (("clock_mhz", 10_000), ("celsius", 150), ("watts", 100_000)):
            if not 0 < getattr(self, name) <= most:
                raise PlanError(f"gpu.throttle: {name}", getattr(self, name), f"use more than 0, at most {most}")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        name, value = (
            ("temperature", self.celsius) if self.cause == "thermal" else ("power_limit_mw", int(self.watts * 1e3))
        )
        names, values = ("reasons", "clock_sm_mhz", name), (REASONS[self.cause], self.clock_mhz, value)
        return [Readings(self.state(unit), self.gpu, names, values)]
