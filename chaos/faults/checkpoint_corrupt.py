"""A checkpoint with wrong bits in it."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.checkpoints import CheckpointFault
from aiobs.chaos.fault import Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class CheckpointCorrupt(CheckpointFault):
    """Flip bits of the newest file of a folder, at places the seed chooses. The original comes back at the end.

    Attributes:
        pattern: which files, as a glob below the target's folder; the newest of them is taken.
        most_bytes: a bigger file is refused.
        bits: how many bits are flipped, 1 to 10000, each a different one.
    """

    kind = "checkpoint.corrupt"
    certifies = "checksums: whether a checkpoint that reads without an error, but is not what was written, is noticed"
    limits = "silent corruption of memory or of computation; where in the file the bits lie is chance, not structure"

    bits: int = 8

    def check(self) -> None:
        super().check()
        if not 1 <= self.bits <= 10_000:
            raise PlanError("checkpoint.corrupt: bits", self.bits, "use 1 to 10000")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        path, size = self.chosen(unit)
        if self.bits > size * 8:
            raise PlanError("checkpoint.corrupt: bits", self.bits, f"{path} has {size * 8} bits only")
        return [self.damage(path, setting, bits=tuple(sorted(setting.random.sample(range(size * 8), self.bits))))]
