"""A GPU error that the driver reports by number."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.gpus import GpuFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.gpu import Event
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

XID = 8


@dataclass(frozen=True)
class GpuXid(GpuFault):
    """Report an XID of a fake GPU to whoever waits for NVML's events.

    Attributes:
        gpu: number of the GPU, from 0.
        number: of the XID: 79 is a GPU fallen off the bus, 48 a double-bit ECC error, 94 a contained one.
    """

    kind = "gpu.xid"
    certifies = "that an XID reaches telemetry and whoever drains nodes"
    limits = "the error itself: computation goes on; a real GPU (fake NVML only, not run on a real GPU)"

    number: int = 79

    def check(self) -> None:
        super().check()
        if not 1 <= self.number <= 1023:
            raise PlanError("gpu.xid: number", self.number, "use 1 to 1023")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        return [Event(self.state(unit), self.gpu, XID, self.number)]
