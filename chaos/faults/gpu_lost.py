"""A GPU that has fallen off the bus."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.gpus import GpuFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.gpu import Event, Readings
from aiobs.chaos.target import Unit

XID, OFF_THE_BUS = 8, 79


@dataclass(frozen=True)
class GpuLost(GpuFault):
    """Let every NVML call about a fake GPU fail with GPU_IS_LOST, after XID 79, until the end.

    Attributes:
        gpu: number of the GPU, from 0.
    """

    kind = "gpu.lost"
    certifies = "that telemetry and health checks notice a lost GPU and go on with the others"
    limits = "CUDA calls that fail; a real GPU (fake NVML only, not run on a real GPU)"

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        path = self.state(unit)
        return [Event(path, self.gpu, XID, OFF_THE_BUS), Readings(path, self.gpu, ("lost",), (1,))]
