"""An evaluation: from the first batch a model sees without learning to the moment training goes on."""

from __future__ import annotations

import weakref
from typing import Any

from aiobs import names, recorder
from aiobs.clock import monotonic_ns


class Evaluation:
    """An open ``evaluate`` span, in the run's trace.

    Attributes:
        graded: whether its calls are made with gradients enabled (somebody forgot ``torch.no_grad``).
        wait_ns: begin and end of the data wait since the last call: it may turn out to be training's.
    """

    def __init__(self, start_ns: int, model: Any, graded: bool) -> None:
        self.graded = graded
        self.wait_ns: tuple[int, int] | None = None
        self._model = weakref.ref(model)
        self._batches = 0
        self._last_ns = start_ns
        self._span = recorder.start_span(names.SPAN_EVALUATE, parent=recorder.state.ambient, start_ns=start_ns)

    def over(self) -> bool:
        """Whether the model is being trained again, as far as its own mode tells."""
        model = self._model()
        return model is None or bool(model.training)

    def called(self, now: int) -> None:
        """The model has been called (once more)."""
        self._batches += 1
        self._last_ns = now
        self.wait_ns = None

    def fail(self, error: BaseException) -> None:
        """`error` has ended it."""
        self._span.fail(error)
        self._last_ns = monotonic_ns()

    def end(self, at_ns: int | None = None) -> int:
        """End the span, by default when the model or its data was last seen; returns when that was."""
        end = self._last_ns if at_ns is None else at_ns
        self._span.set(names.EVALUATE_BATCHES, self._batches)
        self._span.end(end)
        return end
