"""One injection in the injector: plan → inject → effective → held → undone, or invalid at any of these."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiobs.clock import monotonic_ns
from aiobs.errors import FaultError

from .journal import Journal, Standing
from .operation import Operation
from .plan import Plan
from .target import Unit
from .undoing import PROOF_S, undo_all


@dataclass
class Held:
    """See the module's text.

    Attributes:
        evidence: what proved each operation's effect.
        injected_ns, effective_ns, undone_ns: monotonic clock, 0 as long as it has not happened.
        ends: monotonic s at which it ends by itself: without effect, or held long enough.
        residue: what undoing left, one sentence each.
    """

    plan: Plan
    units: Sequence[Unit]
    operations: Sequence[Operation]
    evidence: list[str] = field(default_factory=list)
    residue: list[str] = field(default_factory=list)
    injected_ns: int = 0
    effective_ns: int = 0
    undone_ns: int = 0
    ends: float = 0.0
    _standing: list[Standing] = field(default_factory=list)

    @classmethod
    def prepare(cls, plan: Plan, units: Sequence[Unit], session: Path) -> Held:
        """Resolve everything there is to resolve; touches nothing. Raises PlanError."""
        return cls(plan, units, plan.operations(list(units), str(session)))

    def inject(self, journal: Journal) -> None:
        """Do every operation, each after it has been journaled. What was done is undone where one fails.

        Raises:
            PlanError: an operation refuses; what came before it is undone.
            FaultError: an operation failed, or the journal cannot be written; likewise.
        """
        journal.plan(self.plan.id, self.plan.to_data())
        doing = ""
        try:
            for index, operation in enumerate(self.operations):
                doing = operation.describe()
                before = operation.before()
                journal.about_to(self.plan.id, index, operation, before)
                self._standing.append(Standing(self.plan.id, index, operation, before))
                operation.act(before)
        except BaseException as error:
            residue = self.undo(journal)
            if isinstance(error, OSError):
                raise FaultError("inject", f"{doing}: {error}", tuple(residue)) from error
            raise
        self.injected_ns = monotonic_ns()
        self.ends = time.monotonic() + self.plan.effect_s

    def look(self) -> bool:
        """Whether the fault has been seen to act since the last call, on all of its operations."""
        if self.effective_ns:
            return False
        found = [it.operation.effective(it.before) for it in self._standing]
        if not all(found):
            return False
        self.evidence = found
        self.effective_ns = monotonic_ns()
        self.ends = time.monotonic() + self.plan.duration_s
        for it in self._standing:
            it.operation.renew(it.before, self.plan.duration_s)
        return True

    def silent(self) -> list[str]:
        """Operations that have not been seen to act, described."""
        return [it.operation.describe() for it in self._standing if not it.operation.effective(it.before)]

    def undo(self, journal: Journal | None, *, patience_s: float = PROOF_S) -> list[str]:
        """Undo it and prove that; returns what is left. Again: only what is left."""

        def done(it: Standing) -> None:
            self._standing.remove(it)
            if journal is not None:
                try:
                    journal.undone(it.injection, it.index)
                except FaultError:
                    pass  # the disk is full: the next start undoes it once more, which does nothing

        self.residue = undo_all(list(self._standing), done, patience_s=patience_s)
        self.undone_ns = monotonic_ns()
        return self.residue
