"""The power limit of a GPU, as the driver enforces it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aiobs.chaos.operation import Before, Operation
from aiobs.chaos.power import PowerLimit, power_limit
from aiobs.errors import FaultError, PlanError


@dataclass(frozen=True)
class Cap(Operation):
    """Set the power limit of GPU number `gpu` to `milliwatts`.

    Attributes:
        state: the fake GPUs' state file, "" for real ones.
    """

    kind = "power.cap"

    state: str
    gpu: int
    milliwatts: int

    @property
    def _which(self) -> str:
        return f"fake GPU {self.gpu} of {self.state}" if self.state else f"GPU {self.gpu}"

    def describe(self) -> str:
        return f"{self._which}: power limit {self.milliwatts / 1e3:g} W (nvidia-smi -i {self.gpu} -pl)"

    def describe_undo(self) -> str:
        return f"{self._which}: the power limit it had"

    def before(self) -> Before:
        found = power_limit(self.state, self.gpu)
        if found.reason:
            raise PlanError("gpu", self.gpu, found.reason)
        if found.limit <= self.milliwatts:
            raise PlanError(
                "gpu.power_cap: watts", self.milliwatts / 1e3, f"the limit is {found.limit / 1e3:g} W already: use less"
            )
        return {"limit": found.limit, "uuid": found.uuid}

    def _now(self, before: Before) -> PowerLimit:
        """What the same GPU says now; raises FaultError where it does not answer."""
        if self.state and not os.path.exists(self.state):
            return PowerLimit(reason="the fake GPUs are gone", lost=True)
        found = power_limit(self.state, self.gpu)
        if found.reason and not found.lost:
            raise FaultError("undo", f"{self._which}: {found.reason}")
        if not found.lost and found.uuid != before["uuid"]:
            raise FaultError(
                "undo", f"GPU {self.gpu} is {found.uuid} now; set {before['uuid']} back to {before['limit']} mW"
            )
        return found

    def act(self, before: Before) -> None:  # noqa: ARG002
        if reason := power_limit(self.state, self.gpu, self.milliwatts).reason:
            raise FaultError("inject", f"the power limit of {self._which} cannot be set: {reason}")

    def effective(self, before: Before) -> str:  # noqa: ARG002
        found = power_limit(self.state, self.gpu)
        return f"NVML: the power limit of {self._which} is {found.limit / 1e3:g} W" if self._ours(found) else ""

    def _ours(self, found: PowerLimit) -> bool:
        return not found.reason and found.limit == self.milliwatts

    def undo(self, before: Before) -> None:
        # What somebody else has set since stays; a GPU that is lost has its default when it comes back.
        if not self._ours(self._now(before)):
            return
        if reason := power_limit(self.state, self.gpu, int(before["limit"])).reason:
            raise FaultError("undo", f"the power limit of {self._which} cannot be put back: {reason}")

    def residue(self, before: Before) -> str:
        return (
            f"the power limit of {self._which} is {self.milliwatts} mW still" if self._ours(self._now(before)) else ""
        )
