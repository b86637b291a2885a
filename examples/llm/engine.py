"""A continuous-batching engine: every step runs all requests it has room for, each as far as it is.

A step has a budget of tokens. Requests that are decoding take one each; what is left goes to prompts, in parts where
they are long, so that nobody's next token waits for another's whole prompt. Keys and values live in blocks of a
cache. Where blocks run out the youngest request gives its own back and later computes them again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter_ns
from typing import Any, Protocol

import torch

from llm.model import END, Piece, decode
from llm.observed import engine_steps


class Model(Protocol):
    """What the engine runs."""

    def reserve(self, blocks: int, block_size: int) -> None: ...
    def run(self, pieces: Sequence[Piece]) -> torch.Tensor: ...


@dataclass(eq=False)
class Generation:
    """A request in the engine.

    Attributes:
        tokens: the prompt, then what was generated; `prompt`: how many are the prompt's.
        seen: what is told about it (see `observed.engine_request`).
        stop: texts that end it. `ignore_end`: whether the model's own end does not.
        computed: tokens whose keys and values are in the cache, in `blocks`.
    """

    tokens: list[int]
    max_tokens: int
    seen: Any
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_end: bool = False
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    cancelled: bool = False
    number: int = -1
    prompt: int = 0
    random: torch.Generator | None = None


News = tuple[Generation, "int | BaseException | None", str]
"""A new token (or None, or what the engine failed with), and why the generation ended ("" while it has not)."""


class Engine:
    """Runs generations in a thread of its own.

    Attributes:
        journal: where a list is put, the engine writes down what it did and when: (what, generation's number, ns of
            ``perf_counter_ns``), and for a step ("step", its number, begin, end, numbers of the generations).
    """

    def __init__(
        self,
        model: Model,
        dispatch: Callable[[list[News]], None],
        *,
        blocks: int = 512,
        block_size: int = 16,
        max_batch: int = 32,
        step_tokens: int = 256,
        name: str = "serve_llm",
        **kept: Any,
    ) -> None:
        """`dispatch` is called in the engine's thread, at most once a step, with the news of all generations.

        Args:
            blocks, block_size: size of the cache, tokens of a block.
            max_batch: generations that run at once. step_tokens: tokens that a step runs at most.
            kept: rules of the steps that are kept as spans.
        """
        model.reserve(blocks, block_size)
        self.journal: list[Any] | None = None
        self._model, self._dispatch = model, dispatch
        self._blocks, self._block_size = blocks, block_size
        self._max_batch, self._step_tokens = max_batch, step_tokens
        self._free = list(reversed(range(blocks)))
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._numbers = count()
        self._step_number = 0
        self._steps = engine_steps(name, **kept)
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    # -- for the server ------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Give up what is left, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, it: Generation) -> None:
        """Queue a generation.

        Raises:
            ValueError: it can never fit into the cache.
        """
        it.prompt = len(it.tokens)
        room = self._blocks * self._block_size
        if it.prompt + it.max_tokens > room:
            raise ValueError(f"prompt ({it.prompt} tokens) and max_tokens={it.max_tokens}: together at most {room}")
        if it.temperature > 0:
            it.random = torch.Generator().manual_seed(it.seed)
        it.number = next(self._numbers)
        self._note("arrived", it)
        with self._changed:
            self._waiting.append(it)
            self._changed.notify()

    def cancel(self, it: Generation) -> None:
        """Nobody wants it any more; it ends before the next step."""
        with self._changed:
            it.cancelled = True
            self._changed.notify()

    @property
    def load(self) -> dict[str, float]:
        """How many run and wait, and the part of the cache in use."""
        used = 1 - len(self._free) / self._blocks
        return {"running": len(self._running), "waiting": len(self._waiting), "kv_usage": used}

    # -- the engine's thread -------------------------------------------------------------------------------
    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._stopping or self._waiting or self._running):
                    self._changed.wait()
                if self._stopping:
                    break
            self._drop_cancelled()
            pieces = self._plan()
            if pieces:
                self._step(pieces)
        error = RuntimeError("the server is shutting down")
        self._fail([*self._running, *self._waiting], error)

    def _drop_cancelled(self) -> None:
        for it in [it for it in (*self._running, *self._waiting) if it.cancelled]:
            it.seen.aborted("disconnected")
            self._note("aborted", it)
            self._forget(it)

    def _plan(self) -> list[tuple[Generation, Piece]]:
        """What the next step runs: the oldest first."""
        budget, planned = self._step_tokens, []
        for it in list(self._running):
            size = min(len(it.tokens) - it.computed, budget)
            if it in self._running and size and self._grow(it, it.computed + size):
                planned.append((it, size))
                budget -= size
        while self._waiting and budget and len(self._running) < self._max_batch:
            it = self._waiting[0]
            if self._missing(it, len(it.tokens) + 1) > len(self._free):
                break
            self._waiting.popleft()
            self._running.append(it)
            again = len(it.tokens) > it.prompt
            (it.seen.resumed if again else it.seen.scheduled)()
            self._note("resumed" if again else "scheduled", it)
            size = min(len(it.tokens), budget)
            self._grow(it, size)
            planned.append((it, size))
            budget -= size
        return [
            (it, Piece(it.tokens[it.computed : it.computed + size], it.computed, it.blocks)) for it, size in planned
        ]

    def _missing(self, it: Generation, tokens: int) -> int:
        return -(-tokens // self._block_size) - len(it.blocks)

    def _grow(self, it: Generation, tokens: int) -> bool:
        """Give `it` blocks for so many tokens, at the cost of younger ones; False where it had to go itself."""
        while self._missing(it, tokens) > 0:
            if self._free:
                it.blocks.append(self._free.pop())
                continue
            youngest = self._running.pop()
            self._release(youngest)
            self._waiting.appendleft(youngest)
            youngest.seen.preempted()
            self._note("preempted", youngest)
            if youngest is it:
                return False
        return True

    def _step(self, pieces: list[tuple[Generation, Piece]]) -> None:
        news: list[News] = []
        number, self._step_number = self._step_number, self._step_number + 1
        begun = perf_counter_ns()
        try:
            with self._steps.step(**self.load) as step:
                for it, piece in pieces:
                    prefill = piece.start + len(piece.tokens) <= it.prompt or len(piece.tokens) > 1
                    size = len(piece.tokens)
                    step.share(it.seen, prefill_tokens=size * prefill, decode_tokens=size * (not prefill))
                logits = self._model.run([piece for _, piece in pieces])
                for (it, piece), row in zip(pieces, logits, strict=True):
                    it.computed += len(piece.tokens)
                    if it.computed == len(it.tokens):
                        news.append(self._sample(it, row))
        except Exception as error:  # noqa: BLE001 - one bad step must not end the engine: those in it fail, others go on
            self._fail([it for it, _ in pieces], error)
            return
        finally:
            if self.journal is not None:
                self.journal.append(("step", number, begun, perf_counter_ns(), [it.number for it, _ in pieces]))
        if news:
            self._dispatch(news)

    def _sample(self, it: Generation, logits: torch.Tensor) -> News:
        """Choose the next token; tells whether the generation has come to its end."""
        if it.random is None:
            token = int(logits.argmax())
        else:
            chances = torch.softmax(logits / it.temperature, -1)
            token = int(torch.multinomial(chances, 1, generator=it.random))
        if token == END and not it.ignore_end:
            self._finish(it, "stop")
            return it, None, "stop"
        it.tokens.append(token)
        it.seen.token()
        self._note("token", it)
        reason = "length" if len(it.tokens) - it.prompt >= it.max_tokens else ""
        if it.stop:
            longest = max(map(len, it.stop)) * 4
            tail = decode(it.tokens[max(it.prompt, len(it.tokens) - longest) :])
            reason = "stop" if any(text in tail for text in it.stop) else reason
        if reason:
            self._finish(it, reason)
        return it, token, reason

    def _finish(self, it: Generation, reason: str) -> None:
        it.seen.finished(reason)
        self._note("finished", it)
        self._forget(it)

    def _fail(self, those: list[Generation], error: BaseException) -> None:
        for it in those:
            it.seen.failed(error)
            self._note("failed", it)
            self._forget(it)
        if those:
            self._dispatch([(it, error, "error") for it in those])

    def _forget(self, it: Generation) -> None:
        self._release(it)
        with self._changed:
            if it in self._running:
                self._running.remove(it)
            elif it in self._waiting:
                self._waiting.remove(it)

    def _release(self, it: Generation) -> None:
        self._free += reversed(it.blocks)
        it.blocks, it.computed = [], 0

    def _note(self, what: str, it: Generation) -> None:
        if self.journal is not None:
            self.journal.append((what, it.number, perf_counter_ns()))
