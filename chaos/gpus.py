"""What faults of GPUs share: which GPU, and that it is a fake one."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.errors import PlanError

from .fault import Fault
from .operations.gpu import has_fake
from .target import Unit

FAKE = "AIOBS_FAKE_GPU"


@dataclass(frozen=True)
class GpuFault(Fault):
    """A fault of a fake GPU (AIOBS_FAKE_GPU in the environment of the target's processes).

    Attributes:
        gpu: number of the GPU, from 0.
    """

    gpu: int = 0

    def check(self) -> None:
        if self.gpu < 0:
            raise PlanError(f"{self.kind}: gpu", self.gpu, "use 0 or more")

    def missing(self, unit: Unit) -> list[str]:
        if not has_fake():
            return ["this version of aiobs has no fake GPUs: install one that has aiobs.device"]
        if not self.state(unit):
            return [f"{unit.label} has no {FAKE} in its environment: faults of real GPUs are not injected"]
        return []

    def state(self, unit: Unit) -> str:
        """Path of the state file of the fake GPUs, "" where there are none."""
        return next((path for it in unit.processes if (path := it.variables().get(FAKE, ""))), "")
