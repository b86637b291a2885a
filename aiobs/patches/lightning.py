"""The Lightning patch: a module's ``training_step`` counts as forward, its validation as evaluation.

All else comes from the PyTorch patch. Lightning calls ``training_step`` past the module's ``__call__``, which is
why this is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from aiobs.guard import guarded
from aiobs.patches.torch import loops
from aiobs.settings import Settings
from aiobs.wrapping import Live, replace

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class LightningPatch:
    """For the distribution ``lightning``."""

    package = "lightning.pytorch"

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def install(self, settings: Settings) -> None:
        """Wrap the calls of a module's steps; nothing where the PyTorch patch is switched off."""
        if self._undo or "torch" in settings.patches_off:
            return
        strategy = import_module(f"{self.package}.strategies").Strategy
        self._undo = [replace(strategy, name, self._step) for name in STEPS]

    def remove(self) -> None:
        """Leave Lightning as it was."""
        while self._undo:
            self._undo.pop()()

    def _step(self, original: Any, live: Live) -> Any:
        from torch import is_grad_enabled

        @guarded("patches.lightning", self.remove)
        def begin(strategy: Any) -> Any:
            loop, module = loops.current(), strategy.lightning_module
            return None if loop is None or module is None else (loop, loop.call_begin(module, is_grad_enabled()))

        @guarded("patches.lightning", self.remove)
        def end(moment: Any) -> None:
            moment[0].call_end(moment[1])

        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            moment = begin(self) if live else None
            try:
                return original(self, *args, **kwargs)
            finally:
                if moment is not None:
                    end(moment)

        return step


class PytorchLightningPatch(LightningPatch):
    """For the distribution ``pytorch-lightning``."""

    package = "pytorch_lightning"
