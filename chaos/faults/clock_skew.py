"""A wall clock that is wrong, for some processes; the host's is never touched."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Fault, Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.operations.clock import Skew
from aiobs.chaos.target import Unit
from aiobs.errors import PlanError

FILE, STEADY = "FAKETIME_TIMESTAMP_FILE", "FAKETIME_DONT_FAKE_MONOTONIC"


@dataclass(frozen=True)
class ClockSkew(Fault):
    """Shift the wall clock of processes that were started under libfaketime, through the file it reads.

    It looks into the file every 10 s at most, at each call with FAKETIME_NO_CACHE=1 in the program's environment.

    Attributes:
        offset_s: how far the clock is ahead; below 0: behind.
    """

    kind = "clock.skew"
    certifies = "what depends on wall clocks of several nodes: leases, certificates, tokens, order of events"
    limits = "monotonic clocks; programs without libfaketime; the kernel's time stamps of files and packets"

    offset_s: float = 3600.0

    def check(self) -> None:
        if not self.offset_s or abs(self.offset_s) > 10 * 366 * 86400:
            raise PlanError("clock.skew: offset_s", self.offset_s, "use seconds other than 0, at most ten years")

    def missing(self, unit: Unit) -> list[str]:
        lacking = []
        for process in unit.processes:
            variables = process.variables()
            if not variables.get(FILE) or "faketime" not in variables.get("LD_PRELOAD", ""):
                lacking.append(
                    f"{process} does not run under libfaketime: start it with LD_PRELOAD=<libfaketime.so.1> (pip "
                    f"install libfaketime), {FILE}=<a file that says +0>, {STEADY}=1 and FAKETIME_NO_CACHE=1"
                )
            elif variables.get(STEADY) != "1":
                lacking.append(f"{process} would hang when its monotonic clock jumps: start it with {STEADY}=1")
        return lacking

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        paths = dict.fromkeys(it.variables().get(FILE, "") for it in unit.processes)
        if "" in paths:
            raise PlanError("target", unit.label, f"has no {FILE} in its environment")
        return [Skew(path, f"{self.offset_s:+.6f}".rstrip("0").rstrip("."), setting.injection) for path in paths]
