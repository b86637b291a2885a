"""The reference engine of ``examples/llm``, with models whose answers and times a test knows beforehand."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))  # the example's programs find each other as their script would

from llm import observed  # noqa: E402
from llm.engine import Engine, Generation, News  # noqa: E402
from llm.model import END, VOCABULARY, Piece, Transformer, encode  # noqa: E402
from llm.server import create_app  # noqa: E402

__all__ = [
    "END", "EXAMPLES", "MODEL", "Engine", "Generation", "Piece", "Runner", "Steady", "Transformer", "create_app", "encode",
    "observed",
]  # fmt: skip

MODEL = "steady"


class Steady:
    """Every pass takes `pass_s` seconds; the answer to everything is the letter a. Fails in the passes of `fails`."""

    def __init__(self, pass_s: float = 0.0, fails: Sequence[int] = ()) -> None:
        self.pass_s, self.fails, self.passes = pass_s, set(fails), 0

    def reserve(self, blocks: int, block_size: int) -> None:
        pass

    def run(self, pieces: Sequence[Piece]) -> torch.Tensor:
        number, self.passes = self.passes, self.passes + 1
        time.sleep(self.pass_s)
        if number in self.fails:
            raise MemoryError("no room for the activations")
        logits = torch.zeros(len(pieces), VOCABULARY)
        logits[:, ord("a")] = 1
        return logits


class Runner:
    """An engine without a server: submits, waits, remembers how each generation ended."""

    def __init__(self, model: Any, **limits: Any) -> None:
        self.ended: dict[int, str] = {}
        self.tokens: dict[int, int] = {}
        self._news = threading.Condition()
        self.engine = Engine(model, self._dispatch, **limits)
        self.engine.journal = []
        self.engine.start()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: object) -> None:
        self.engine.stop()

    def _dispatch(self, news: list[News]) -> None:
        with self._news:
            for it, token, reason in news:
                if isinstance(token, int):
                    self.tokens[it.number] = self.tokens.get(it.number, 0) + 1
                if reason:
                    self.ended[it.number] = reason
            self._news.notify_all()

    def submit(self, prompt: int, max_tokens: int) -> Generation:
        """A prompt of so many tokens, to be answered with so many."""
        seen = observed.engine_request(MODEL, "text_completion", {"max_tokens": max_tokens}, prompt)
        it = Generation([65] * prompt, max_tokens, seen)
        self.engine.submit(it)
        return it

    def wait_ended(self, count: int, limit_s: float = 20.0) -> None:
        """Until so many generations have ended."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.ended) >= count, limit_s), self.ended

    def wait_token(self, it: Generation, limit_s: float = 20.0) -> None:
        """Until it has a token."""
        with self._news:
            assert self._news.wait_for(lambda: self.tokens.get(it.number, 0) > 0, limit_s)
