"""Memory of a GPU that somebody else has taken."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.worker import Run
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

DEVICES = ("/dev/nvidiactl", "/dev/kfd")
"""What a kernel with a GPU that PyTorch can use has: NVIDIA's driver, AMD's."""


@dataclass(frozen=True)
class GpuMemoryBallast(Fault):
    """Take `ballast_bytes` of a real GPU's memory, by PyTorch in a process of ours; they are free again at the end.

    The target only says whose experiment this is: memory of a GPU has no boundary between its users.

    Attributes:
        gpu: number of the GPU, from 0, as PyTorch counts (CUDA_VISIBLE_DEVICES of the injector).
        ballast_bytes: how much; less is taken where there is less.
    """

    kind = "gpu.memory_ballast"
    takes = ()
    certifies = (
        "programs that share a GPU with somebody who takes its memory: out-of-memory errors of CUDA, smaller caches"
    )
    limits = "it has not been run on a real GPU, only its refusal without one; for torch.OutOfMemoryError without a GPU use point.oom"

    gpu: int = 0
    ballast_bytes: int = 1 << 30

    def check(self) -> None:
        if self.gpu < 0:
            raise PlanError("gpu.memory_ballast: gpu", self.gpu, "use 0 or more")
        if self.ballast_bytes < 1:
            raise PlanError("gpu.memory_ballast: ballast_bytes", self.ballast_bytes, "use at least 1")

    def missing(self, unit: Unit) -> list[str]:  # noqa: ARG002
        if not any(map(os.path.exists, DEVICES)):
            return [f"this machine has no GPU (no {' or '.join(DEVICES)}): use point.oom for its errors without one"]
        if find_spec("torch") is None:
            return ["PyTorch is not installed: pip install 'aiobs-sdk[torch]'"]
        return []

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        told = json.dumps({"gpu": self.gpu, "bytes": self.ballast_bytes})
        return [Run("gpu_ballast", f"{setting.injection}-gpu-ballast", told, setting.folder)]
