"""Out of memory inside one process: allocations fail, nobody is killed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.limits import Soft
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class MemoryLimit(Fault):
    """RLIMIT_DATA at what the process has now plus `headroom_bytes`: ``MemoryError``, or in PyTorch
    ``RuntimeError: … can't allocate memory``. Needs no root.

    Attributes:
        headroom_bytes: what it may still take.
    """

    kind = "memory.limit"
    certifies = "handling of allocations that fail inside the program"
    limits = "the OOM killer: nobody is killed, no counter of the kernel moves"

    headroom_bytes: int = 1 << 20

    def check(self) -> None:
        if self.headroom_bytes < 0:
            raise PlanError("memory.limit: headroom_bytes", self.headroom_bytes, "use 0 or more")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        return [
            Soft(it.pid, it.start, "RLIMIT_DATA", private_bytes(it.pid) + self.headroom_bytes) for it in unit.processes
        ]


def private_bytes(pid: int) -> int:
    """What RLIMIT_DATA counts: VmData of ``/proc/<pid>/status``."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    raise PlanError("target", f"pid {pid}", "is a thread of the kernel or gone")
