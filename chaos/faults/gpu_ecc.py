"""A memory error of a GPU that ECC could not correct."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.gpus import GpuFault
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.gpu import Event, Readings, Risen
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

XID, DOUBLE_BIT = 8, 2
NUMBERS = {"plain": 48, "contained": 94, "uncontained": 95}
"""XIDs: an uncorrectable error, and with containment (A100 and later) whether it stayed with one program."""
VOLATILE, AGGREGATE = 4, 6
"""NVML's fields: uncorrectable errors since the driver was loaded, and in all."""


@dataclass(frozen=True)
class GpuEcc(GpuFault):
    """Let a fake GPU count uncorrectable memory errors, and report them: a double-bit event and an XID.

    Attributes:
        gpu: number of the GPU, from 0.
        how: ``plain`` (XID 48), ``contained`` (XID 94: only the program that read it failed) or ``uncontained``
            (XID 95: every program on the GPU is affected).
        count: how many errors.
        lost: the GPU is lost too, until the end.
    """

    kind = "gpu.ecc"
    certifies = "that memory errors of a GPU reach telemetry and whoever drains nodes, told apart by how far they go"
    limits = "the error itself: no bit is flipped and computation goes on (kill the process with process.kill); a real GPU (fake NVML only)"

    how: str = "plain"
    count: int = 1
    lost: bool = False

    def check(self) -> None:
        super().check()
        if self.how not in NUMBERS:
            raise PlanError("gpu.ecc: how", self.how, f"use {', '.join(NUMBERS)}")
        if not 1 <= self.count <= 1_000_000:
            raise PlanError("gpu.ecc: count", self.count, "use 1 to 1000000")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        path = self.state(unit)
        done: list[Operation] = [Risen(path, self.gpu, number, self.count) for number in (VOLATILE, AGGREGATE)]
        done += [Event(path, self.gpu, DOUBLE_BIT, 0), Event(path, self.gpu, XID, NUMBERS[self.how])]
        return [*done, Readings(path, self.gpu, ("lost",), (1,))] if self.lost else done
