"""A model with a bug: one prompt ends the process, as a bad kernel or an assertion in the engine would."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import torch

from llm.engine import Model
from llm.model import Piece


class Fragile:
    """Runs `model` until a prompt holds `poison`."""

    def __init__(self, model: Model, poison: str) -> None:
        self._model, self._poison = model, list(poison.encode())

    def reserve(self, blocks: int, block_size: int) -> None:
        """See :meth:`llm.model.Transformer.reserve`."""
        self._model.reserve(blocks, block_size)

    def run(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """See :meth:`llm.model.Transformer.run`."""
        size = len(self._poison)
        for piece in pieces:
            if any(piece.tokens[at : at + size] == self._poison for at in range(len(piece.tokens) - size + 1)):
                os.kill(os.getpid(), signal.SIGKILL)
        return self._model.run(pieces)
