"""The PyTorch patch: steps and their phases, evaluation, checkpoints, compilation, process groups."""

from __future__ import annotations

from collections.abc import Callable

from aiobs import names, recorder
from aiobs.patches.torch import (
    boundaries,
    calls,
    checkpoint,
    compiling,
    distributed,
    gpu,
    loops,
    out_of_memory,
    untraced,
)
from aiobs.settings import Settings


class TorchPatch:
    """Makes a training loop record itself; see the modules beside this one for each part."""

    name = "torch"

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def install(self, settings: Settings) -> None:
        """Put everything in place. PyTorch has been imported."""
        if self._undo:
            return
        loops.models.name_service = not settings.service_name
        for phase in (names.PHASE_DATA, names.PHASE_FORWARD, names.PHASE_BACKWARD, names.PHASE_OPTIMIZER):
            recorder.phase_id(phase)  # now, rather than in the middle of the first step
        for part in (boundaries, calls, checkpoint, compiling, distributed, out_of_memory, untraced):
            self._undo += part.place_all(self.remove)
        self._undo += gpu.place_all(settings)

    def remove(self) -> None:
        """Finish what is open and leave PyTorch as it was."""
        out_of_memory.program_ends()
        loops.finish()
        while self._undo:
            self._undo.pop()()
        loops.models.forget()
