"""Steps of jobs with very many ranks: a rank contributes one span, only the extremes their phases too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiobs.agent.frozen import freeze_step, thaw_step
from aiobs.agent.steps import Step

WAITING = 64
"""Steps that wait for slower ranks of this host."""


class Crowd:
    """Collects kept steps until all ranks of this host have delivered theirs."""

    def __init__(self, export: Callable[[str, Step, bool], None]) -> None:
        """`export(key, step, whole)`: export a process's step, with its phases where `whole`."""
        self._export = export
        self._waiting: dict[bytes, list[tuple[str, Step]]] = {}

    def add(self, key: str, step: Step) -> None:
        """A kept step of the process `key`."""
        self._waiting.setdefault(step.trace, []).append((key, step))
        while len(self._waiting) > WAITING:
            self._let_go(next(iter(self._waiting)))

    def flush(self, live: set[str]) -> None:
        """Export the steps that all `live` processes have delivered, or one that has ended since."""
        for trace, found in list(self._waiting.items()):
            owners = {key for key, _ in found}
            if owners >= live or not owners <= live:
                self._let_go(trace)

    def _let_go(self, trace: bytes) -> None:
        found = self._waiting.pop(trace)
        slowest = max(found, key=lambda item: item[1].seconds)[1]
        fastest = min(found, key=lambda item: item[1].seconds)[1]
        for key, step in found:
            self._export(key, step, step is slowest or step is fastest or step.failed)

    def snapshot(self) -> list[Any]:
        """JSON-able state."""
        return [[key, freeze_step(step)] for found in self._waiting.values() for key, step in found]

    def restore(self, state: list[Any]) -> None:
        """Take over what `snapshot` gave."""
        for key, frozen in state:
            step = thaw_step(frozen)
            self._waiting.setdefault(step.trace, []).append((key, step))
