"""No fault at all: the reference, and the dry run of an experiment (an A/A test)."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit


@dataclass(frozen=True)
class Noop(Fault):
    """Does nothing to anybody."""

    kind = "noop"
    takes = ()
    certifies = "nothing; what an experiment reports with it is its false alarms"
    limits = "everything"

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:  # noqa: ARG002
        return []
