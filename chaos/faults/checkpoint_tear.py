"""A checkpoint whose writer died in the middle."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.checkpoints import CheckpointFault
from aiobs.chaos.fault import Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class CheckpointTear(CheckpointFault):
    """Cut the newest file of a folder off, after its program wrote it. The original comes back at the end.

    Attributes:
        pattern: which files, as a glob below the target's folder; the newest of them is taken.
        most_bytes: a bigger file is refused.
        share: how much of it is left, from 0 up to below 1.
    """

    kind = "checkpoint.tear"
    certifies = "resuming where the newest checkpoint is torn: it is noticed, and an older one is taken"
    limits = "what a disk loses at a power cut; a program that reads the file through a descriptor it has open already"

    share: float = 0.5

    def check(self) -> None:
        super().check()
        if not 0 <= self.share < 1:
            raise PlanError("checkpoint.tear: share", self.share, "use 0 up to below 1")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        path, size = self.chosen(unit)
        return [self.damage(path, setting, size=int(size * self.share))]
