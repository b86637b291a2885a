"""What a thread's training loop is doing, made out from the few moments the patch gets to see.

The moments are: a data loader is asked, a model is called, backward runs, an optimizer steps. A *step* reaches
from the end of one optimizer step to the end of the next, so steps follow each other without a gap, unless an
evaluation or a checkpoint lies between. Where several optimizers take part, the step goes on until all known
ones have stepped, data is asked for again, or one of them steps a second time; until then its end is
provisional. What is not sure at once (is this call an evaluation?) is settled when the next batch is asked for.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from threading import get_native_id
from types import FrameType
from typing import Any

from aiobs import names, recorder
from aiobs.clock import monotonic_ns
from aiobs.patches.torch import gpu
from aiobs.patches.torch.device_time import DeviceTime
from aiobs.patches.torch.evaluation import Evaluation
from aiobs.patches.torch.models import Models
from aiobs.points import point
from aiobs.recorder.rest import type_name

NOTHING = -1
"""Token of a moment that opened no phase."""
EVALUATING = -2
"""Token of a moment that belongs to an evaluation."""
SKIPPING = 64
"""So many batches in a row without a model are not taken for one step's."""

HOOKED = 16
"""After so many steps whose optimizer told us, only every so many-th is looked at for one that does not."""

CALLS = 100
"""So many calls of models without gradients are recorded in a step; what later ones take counts as ``other``."""


class Loop:
    """One thread's training loop. Every method is called at the moment it is named after."""

    def __init__(self, models: Models) -> None:
        self.steps = recorder.steps()
        self.evaluation: Evaluation | None = None
        self._models = models
        self._thread = get_native_id()
        self._gpu: DeviceTime | None = None
        self._resume_ns = 0  # where the next step begins: the end of the last, or of what came between
        self._gap_ns = 0  # where forward begins if no model is seen
        self._model_depth = self._backward_depth = self._scaler_depth = 0
        self._stepping: list[tuple[int, int]] = []  # (optimizer id, token) of optimizer steps in progress
        self._set_aside = False  # the optimizer phase is interrupted by what its closure does
        self._version = 0
        self._hooked = 0  # steps in a row whose optimizer told us
        self._ids: dict[str, int] = {}  # of phases, in the flight record of
        self._generation = -1
        self._looked = False
        self._source: Callable[[], Any] = lambda: None  # where the first step's data comes from
        self._pointed = -1
        self._forget_step()

    def at_step(self) -> None:
        """Be at the point ``train.step``, once a step; outside every guard, as a fault there is the program's."""
        steps = self.steps
        if steps.open and not steps.explicit and steps.number != self._pointed:
            self._pointed = steps.number
            point(names.POINT_STEP, self._pointed)

    def _forget_step(self) -> None:
        later = self.steps.open  # a step that has just been closed may leave entries that belong to the next
        self._ended: set[int] = set()
        self._applied = self._skipped = 0
        self._backwards = int(later)
        self._called = later
        self._scaled = self._in_backward = False
        self._doubtful: Any = None  # model called in a way that may turn out to be an evaluation
        self._waits = self._calls = 0
        self._exhausted = False

    def _enter(self, phase: str, start_ns: int) -> int:
        steps = self.steps
        if not steps.open:
            recorder.steps()  # opens a flight record where that was put off (lazy start, forked child)
            if self._generation != recorder.state.generation:
                self._generation = recorder.state.generation
                self._ids.clear()
            if self._resume_ns and not steps.explicit:
                steps.begin(None, min(self._resume_ns, start_ns))
        number = self._ids.get(phase)
        if not number:
            number = self._ids[phase] = recorder.phase_id(phase)
        token: int = steps.enter(number, start_ns)
        if self._gpu is None and gpu.side.gpus is not None:
            self._gpu = gpu.side.time(self._thread)
        if self._gpu is not None:
            self._gpu.mark(start_ns)
        return token

    def _leave(self, token: int, end_ns: int) -> None:
        self.steps.leave(token, end_ns)
        if self._gpu is not None and token >= 0:
            self._gpu.mark(end_ns)

    def _set_optimizer_aside(self, now: int) -> None:
        """A closure (LBFGS, Lightning) calls the model within an optimizer's step: the phases take turns, so that
        no moment counts twice."""
        if self._stepping[0][1] >= 0 and not self._backward_depth and not self._model_depth:
            optimizer, token = self._stepping[0]
            self._leave(token, now)
            self._stepping[0] = optimizer, NOTHING
            self._set_aside = True

    def _back_to_optimizer(self, now: int) -> None:
        if not self._backward_depth and not self._model_depth:
            self._set_aside = False
            if self._stepping:
                self._stepping[0] = self._stepping[0][0], self._enter(names.PHASE_OPTIMIZER, now)

    def _close(self) -> None:
        steps = self.steps
        if gpu.side.used:
            gpu.side.step_ends(steps)
        if not steps.explicit:
            end = steps.provisional_end_ns
            steps.close(skipped=self._skipped > 0 and not self._applied)
            self._resume_ns = self._gap_ns = end or monotonic_ns()
        if self._gpu is not None:
            self._gpu.settle()
        self._forget_step()

    # -- data ----------------------------------------------------------------------------------------------
    def data_begin(self, iterator: Any) -> int:
        """A data loader's `iterator` is asked for a batch."""
        if not self._looked:
            self._look_once()
        now = monotonic_ns()
        if self._stepping:
            self._drop_stale()
        if self.evaluation is not None:
            if not self.evaluation.over():
                self.evaluation.wait_ns = (now, now)
                return EVALUATING
            self._end_evaluation(now)
        if not self._stepping and not self._model_depth:
            if self._version:
                self._unseen_optimizer(now)
            if self._ended:
                self._close()
            elif self._doubtful is not None and not self._backwards:
                self._begin_evaluation(now, self._doubtful, graded=True)
                assert self.evaluation is not None
                self.evaluation.wait_ns = (now, now)
                return EVALUATING
            elif self._waits and not self._called and not self._backwards and self._is_no_step(iterator):
                self.steps.discard()
                self._forget_step()
            if not self._resume_ns:
                self._source = weakref.ref(iterator)
        if self._stepping:
            self._set_optimizer_aside(now)
        return self._enter(names.PHASE_DATA, now)

    def _is_no_step(self, iterator: Any) -> bool:
        """Whether the batches so far, with no model called, were not for training: a pass over the data, a glance
        at it before the first step, a resumed run skipping what it has seen."""
        if self.steps.explicit:
            return False
        return self._exhausted or self._waits >= SKIPPING or (not self._resume_ns and self._source() is not iterator)

    def _look_once(self) -> None:
        self._looked = True
        self._models.look("first")

    def data_end(self, token: int, exhausted: bool) -> None:
        """The batch is there, or there is none left, or getting it raised."""
        now = monotonic_ns()
        if self._data_over(token, now, exhausted):
            return
        if not exhausted:
            self._waits += 1
            return
        self._exhausted = True
        if not self._waits and not self._backwards and not self._called and not self.steps.explicit:
            self.steps.discard()
            self._forget_step()

    def workers_begin(self, loader: Any) -> int:
        """A data loader begins to start its workers."""
        return self.data_begin(loader)

    def workers_end(self, token: int) -> None:
        """They have been started; the first batch is yet to come."""
        self._data_over(token, monotonic_ns(), False)

    def _data_over(self, token: int, now: int, exhausted: bool) -> bool:
        """End the wait; returns whether it belonged to an evaluation."""
        if token == EVALUATING:
            if self.evaluation is not None and self.evaluation.wait_ns is not None:
                self.evaluation.wait_ns = None if exhausted else (self.evaluation.wait_ns[0], now)
            return True
        self._leave(token, now)
        if self._set_aside:
            self._back_to_optimizer(now)
        if not exhausted:
            self._gap_ns = now
        return False

    # -- model ---------------------------------------------------------------------------------------------
    def call_begin(self, model: Any, graded: bool) -> int:
        """The outermost watched `model` is called; `graded`: gradients are enabled."""
        if self._model_depth:
            self._model_depth += 1
            return NOTHING
        now = monotonic_ns()
        if self._stepping:
            self._drop_stale()
        if self._stepping:
            self._set_optimizer_aside(now)
        self._model_depth = 1
        training = bool(model.training)
        found = self.evaluation
        if found is not None:
            if not training and (found.graded or not graded):
                return EVALUATING
            self._train_again(now)
        elif not training and not graded and not self._stepping and not self._backward_depth:
            if self._ended and (id(model) in self._models.trained or self._waits):
                self._close()
            if id(model) in self._models.trained and not self._backwards:
                self._begin_evaluation(now, model, graded)
                return EVALUATING
        if not training:
            if not self._waits and not self._resume_ns and not graded:
                return NOTHING  # inference, as in a server: no data loader, nothing trained so far
            self._doubtful = model
        self._calls += 1
        if self._calls > CALLS and not graded:
            return NOTHING  # a rollout: leave room for what follows
        if not self._backward_depth and not self._stepping:
            if self._in_backward:
                self._close()
            if self._version:
                self._close_if_unseen(now)
        self._called = True
        return self._enter(names.PHASE_FORWARD, now)

    def call_end(self, token: int) -> None:
        """The model has returned or raised."""
        self._model_depth -= 1
        if self._model_depth:
            return
        now = monotonic_ns()
        if token == EVALUATING and self.evaluation is not None:
            self.evaluation.called(now)
        else:
            self._leave(token, now)
        if self._set_aside:
            self._back_to_optimizer(now)

    # -- backward ------------------------------------------------------------------------------------------
    def backward_begin(self) -> int:
        """Gradients are about to be computed."""
        if not self._called and not self._looked:
            self._look_once()
        now = monotonic_ns()
        if self._stepping:
            self._drop_stale()
        if self._stepping:
            self._set_optimizer_aside(now)
        self._backward_depth += 1
        if self._backward_depth > 1:
            return self._enter(names.PHASE_BACKWARD, now)
        if self.evaluation is not None:
            self._train_again(now)
        if self._version:
            self._close_if_unseen(self._gap_ns)
        self._backwards += 1
        if not self._called and not self._stepping and self._gap_ns:
            self.steps.leave(self._enter(names.PHASE_FORWARD, self._gap_ns), now)
            self.steps.set(names.FORWARD_SOURCE, "gap")
        if self._backwards == 1 and not self._version and (self._hooked < HOOKED or not self._hooked % HOOKED):
            self._version = self._models.version()
        return self._enter(names.PHASE_BACKWARD, now)

    def backward_end(self, token: int) -> None:
        """Gradients are there, or it raised."""
        now = monotonic_ns()
        self._backward_depth -= 1
        self._leave(token, now)
        self._gap_ns = now
        if self._set_aside:
            self._back_to_optimizer(now)
        if not self._backward_depth and self._in_backward:
            self.steps.mark_end(now)

    # -- optimizer -----------------------------------------------------------------------------------------
    def optimizer_begin(self, optimizer: int) -> None:
        """The optimizer with this id begins a step."""
        now = monotonic_ns()
        if self._stepping:
            self._drop_stale()
        if self.evaluation is not None:
            self._train_again(now)
        outermost = not self._stepping and not self._scaler_depth
        if outermost and optimizer in self._ended and not self._backward_depth:
            self._close()
        self._stepping.append((optimizer, self._enter(names.PHASE_OPTIMIZER, now) if outermost else NOTHING))

    def optimizer_end(self, optimizer: int) -> None:
        """It has ended."""
        now = monotonic_ns()
        while self._stepping:
            found, token = self._stepping.pop()
            self._leave(token, now)
            if found == optimizer:
                break
        if self._stepping:
            return
        self._set_aside = False
        self._applied += 1
        self._stepped(optimizer, now)

    def _stepped(self, optimizer: int, now: int) -> None:
        self._ended.add(optimizer)
        self._gap_ns = now
        self._version = 0
        self._hooked += 1
        if self._backward_depth:
            self._in_backward = True
            return
        self.steps.mark_end(now)
        if not self._resume_ns:
            self._models.first_step()
        reason = "optimizer" if optimizer not in self._models.optimizers else "" if self._called else "gap"
        looked = bool(reason) and self._models.look(reason)
        if not self._scaler_depth and not self._scaled:
            self._close_if_complete()
        if looked and not self.steps.open and self._resume_ns:
            self._resume_ns = self._gap_ns = monotonic_ns()  # our own pause is no part of the next step

    def _close_if_complete(self) -> None:
        if self._ended and self._models.optimizers and self._ended >= self._models.optimizers.keys():
            self._close()

    def _unseen_optimizer(self, now: int) -> None:
        """Parameters may be changed by what has no hooks: a compiled optimizer step, the user's own arithmetic."""
        if not self._ended and self._models.version() != self._version:
            self._version = self._hooked = 0
            self._ended.add(0)
            self._applied += 1
            self.steps.mark_end(now)
            if not self._resume_ns:
                self._models.first_step()

    def _close_if_unseen(self, now: int) -> None:
        if not self._stepping and not self._waits:
            self._unseen_optimizer(now)
            if self._ended:
                self._close()

    def _drop_stale(self) -> None:
        """An optimizer step that raised has no end hook: notice that none is in progress any more."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code is self._models.step_code:
                return
            frame = frame.f_back
        for _, token in reversed(self._stepping):
            self.steps.leave(token)
        self._stepping.clear()
        self._set_aside = False

    def scaler_begin(self, optimizer: int) -> int:
        """A gradient scaler is told to let the optimizer step."""
        now = monotonic_ns()
        if self._stepping:
            self._drop_stale()
        self._scaled = True
        self._scaler_depth += 1
        if self.evaluation is not None:
            self._train_again(now)
        if self._scaler_depth == 1 and optimizer in self._ended:
            self._close()
            self._scaled = True
        return self._enter(names.PHASE_OPTIMIZER, now) if self._scaler_depth == 1 else NOTHING

    def scaler_end(self, token: int, optimizer: int, overflow: bool, raised: bool) -> None:
        """It has, or has found an `overflow` and left the optimizer out."""
        now = monotonic_ns()
        self._scaler_depth -= 1
        self._leave(token, now)
        if raised:
            return
        if overflow and optimizer in self._ended:
            self._applied -= 1  # a fused optimizer: called, and changed nothing
        if overflow or optimizer not in self._ended:
            self._skipped += 1
        self._stepped(optimizer, now)

    def update_begin(self) -> int:
        """A gradient scaler adjusts its scale: the last act of an AMP step."""
        return self._enter(names.PHASE_OPTIMIZER, monotonic_ns()) if self._ended else NOTHING

    def update_end(self, token: int) -> None:
        """It has."""
        now = monotonic_ns()
        self._leave(token, now)
        if self._ended:
            self.steps.mark_end(now)
            self._close_if_complete()

    # -- collectives ---------------------------------------------------------------------------------------
    def collective_begin(self, name: str) -> int:
        """The script calls a collective operation; only told while a step is open."""
        return self._enter(name, monotonic_ns())

    def collective_end(self, token: int) -> None:
        """It has returned: is done, or under way where it is asynchronous."""
        self._leave(token, monotonic_ns())

    # -- evaluation and other interruptions ------------------------------------------------------------------
    def _begin_evaluation(self, now: int, model: Any, graded: bool) -> None:
        start = now
        if self.steps.open and not self.steps.explicit:
            found = self.steps.discard()
            start = min([now, *(entry[1] for entry in found)])
        self.evaluation = Evaluation(start, model, graded)
        if graded:
            self.evaluation.called(now)
        self._forget_step()

    def _end_evaluation(self, at_ns: int | None = None, error: BaseException | None = None) -> None:
        if self.evaluation is not None:
            evaluation, self.evaluation = self.evaluation, None
            if error is not None:
                evaluation.fail(error)
            self._resume_ns = self._gap_ns = evaluation.end(at_ns)

    def _train_again(self, now: int) -> None:
        """Training goes on; the last data wait was its first, though the evaluated model did not show it."""
        wait = self.evaluation.wait_ns if self.evaluation is not None else None
        if wait is None:
            self._end_evaluation(now)
            return
        self._end_evaluation(wait[0])
        if self._gpu is not None:
            self._gpu.skip(wait[1])
        self.steps.leave(self._enter(names.PHASE_DATA, wait[0]), wait[1])
        self._waits += 1
        self._gap_ns = wait[1]

    def pause(self) -> None:
        """Something that is no part of a step begins: a checkpoint. A step whose optimizer has stepped ends."""
        if self._ended and not self._stepping and not self._model_depth and not self._backward_depth:
            self._close()
        if self.evaluation is not None and not self._model_depth:
            self._end_evaluation()

    def resume(self) -> None:
        """It has ended."""
        if not self.steps.open and self._resume_ns:
            self._resume_ns = self._gap_ns = monotonic_ns()

    def finish(self) -> None:
        """Nothing more will come: close what is complete or has failed, drop what is no step."""
        # Set where an exception has ended the program; steps and evaluations in progress then end with it.
        error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        if self.evaluation is not None:
            self._end_evaluation(error=error)
        elif self._ended:
            self._close()
        elif self._doubtful is not None and not self._backwards:
            self._begin_evaluation(monotonic_ns(), self._doubtful, graded=True)
            self._end_evaluation(error=error)
        if self.steps.open and error is not None:
            self.steps.set(names.ERROR_TYPE, type_name(error))
            self.steps.close(monotonic_ns())
        elif self.steps.claimed or self.steps.failed:
            self.steps.close()
        elif self.steps.open:
            self.steps.discard()
        if self._gpu is not None:
            self._gpu.finish()
