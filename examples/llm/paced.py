"""A model that takes its time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from llm.engine import Model
from llm.model import Piece


class Paced:
    """Runs `model`, each pass of which takes `pace_s` seconds at least."""

    def __init__(self, model: Model, pace_s: float) -> None:
        self._model, self.pace_s = model, pace_s

    def reserve(self, blocks: int, block_size: int) -> None:
        """See :meth:`llm.model.Transformer.reserve`."""
        self._model.reserve(blocks, block_size)

    def run(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """See :meth:`llm.model.Transformer.run`."""
        due = time.perf_counter() + self.pace_s
        found = self._model.run(pieces)
        time.sleep(max(0.0, due - time.perf_counter()))
        return found
