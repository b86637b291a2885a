"""Continuous batching of Transformers: requests that a thread decodes side by side, and the steps they share."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiobs.clock import monotonic_ns
from aiobs.guard import guarded, swallow
from aiobs.patches.engines.generation import Generation, short_name
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.serving import EngineStep, EngineSteps
from aiobs.wrapping import Live

PLACE: Final = "patches.transformers.continuous"
PROVIDER: Final = "transformers"


class _Adding(threading.local):
    """The request that this thread is handing to an engine."""

    def __init__(self) -> None:
        self.now: Generation | None = None


class ContinuousBatchingPatch(EnginePatch):
    """``ContinuousBatchingManager.add_request`` and the loop that answers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self._adding = _Adding()
        self._requests: dict[int, tuple[Any, Generation]] = {}  # by id of the library's state, held here
        self._steps: WeakKeyDictionary[Any, EngineSteps] = WeakKeyDictionary()
        self._open: dict[int, EngineStep] = {}

    def place(self) -> None:
        api = import_module("transformers.generation.continuous_batching.continuous_api")
        state = import_module("transformers.generation.continuous_batching.requests").RequestState
        places = (
            (api.ContinuousBatchingManager, "add_request", self._add_request),
            (getattr(api, "Scheduler", None), "add_waiting_request", self._waits),
            (getattr(api, "Scheduler", None), "clear_cancelled_requests", self._cancel),
            (state, "__post_init__", self._made),
            (state, "update_and_check_completion", self._token),
            (api.ContinuousBatchProcessor, "prepare_next_batch", self._prepare),
            (api.ContinuousBatchProcessor, "update_batch", self._update),
            (getattr(api, "OutputRouter", None), "fail_and_deliver", self._fail),
        )
        if all(hasattr(owner, name) for owner, name, _ in places):
            for owner, name, make in places:
                self.put(owner, name, make)
        # Else a version (4, early 5) whose batches are made otherwise: everybody who generates imports it, nobody
        # needs to hear of it.

    def remove(self) -> None:
        super().remove()
        self._requests.clear()
        while self._open:
            self._open.popitem()[1].end()

    # -- requests ------------------------------------------------------------------------------------------
    def _add_request(self, original: Any, live: Live) -> Any:
        def add_request(self_: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
            if live and is_recorded():
                try:
                    model = self_.model
                    name = short_name(getattr(model, "name_or_path", ""), type(model).__name__)
                    longest = kwargs.get("max_new_tokens", args[1] if len(args) > 1 else None)
                    parameters = {"max_tokens": longest, "stream": kwargs.get("streaming") or None}
                    self._adding.now = Generation(
                        name, "text_completion", parameters, len(input_ids), provider=PROVIDER, waits=True
                    )
                except Exception as error:
                    self.remove()
                    swallow(PLACE, error)
            try:
                added = original(self_, input_ids, *args, **kwargs)
            except BaseException as error:
                self._refused(error)
                raise
            self._refused(None)
            return added

        return add_request

    def _refused(self, error: BaseException | None) -> None:
        """What was to be added may not have come to be a request."""
        request, self._adding.now = self._adding.now, None
        if request is not None and error is not None:
            request.failed(error)
        elif request is not None:
            request.aborted("refused")

    def _made(self, original: Any, live: Live) -> Any:
        def __post_init__(self_: Any, *args: Any, **kwargs: Any) -> None:
            original(self_, *args, **kwargs)
            request = self._adding.now if live else None
            if request is not None:
                self._adding.now = None
                self._requests[id(self_)] = self_, request

        return __post_init__

    def _waits(self, original: Any, live: Live) -> Any:
        def add_waiting_request(self_: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
            if live:
                self._preempted(state)
            return original(self_, state, *args, **kwargs)

        return add_waiting_request

    @guarded(PLACE)
    def _preempted(self, state: Any) -> None:
        """`state` goes to the queue: a new request, or one that gave its cache away, as itself or as its successor."""
        known = self._requests.get(id(state))
        if known is None:
            for key, (before, request) in list(self._requests.items()):
                if before.request_id == state.request_id and before.status.name == "FINISHED":
                    del self._requests[key]
                    known = self._requests[id(state)] = state, request
        if known is not None:
            known[1].preempted()

    def _token(self, original: Any, live: Live) -> Any:
        requests = self._requests

        def update_and_check_completion(self_: Any, token_id: int, *args: Any, **kwargs: Any) -> bool:
            whole: bool = original(self_, token_id, *args, **kwargs)
            known = requests.get(id(self_)) if live else None
            if known is not None:
                known[1].token()
                if whole:
                    requests.pop(id(self_), None)
                    known[1].finished("stop" if token_id in self_._eos_token_ids else "length")
            return whole

        return update_and_check_completion

    def _cancel(self, original: Any, live: Live) -> Any:
        def clear_cancelled_requests(self_: Any, *args: Any, **kwargs: Any) -> Any:
            cancelled = original(self_, *args, **kwargs)
            for state in cancelled if live else ():
                known = self._requests.pop(id(state), None)
                if known is not None:
                    known[1].aborted("cancelled")
            return cancelled

        return clear_cancelled_requests

    def _fail(self, original: Any, live: Live) -> Any:
        def fail_and_deliver(self_: Any, state: Any, error: Exception) -> None:
            known = self._requests.pop(id(state), None) if live else None
            if known is not None:
                known[1].failed(error)
            original(self_, state, error)

        return fail_and_deliver

    # -- steps ---------------------------------------------------------------------------------------------
    def _prepare(self, original: Any, live: Live) -> Any:
        def prepare_next_batch(self_: Any, *args: Any, **kwargs: Any) -> bool:
            begun_ns = monotonic_ns()
            ready: bool = original(self_, *args, **kwargs)
            if ready and live and is_recorded():
                self._step_begins(self_, begun_ns)
            return ready

        return prepare_next_batch

    def _update(self, original: Any, live: Live) -> Any:
        def update_batch(self_: Any, *args: Any, **kwargs: Any) -> None:
            try:
                original(self_, *args, **kwargs)
            except BaseException as error:
                self._step_ends(self_, error)
                raise
            if live:
                self._step_ends(self_, None)

        return update_batch

    @guarded(PLACE)
    def _step_begins(self, processor: Any, begun_ns: int) -> None:
        """The batch of the next step is known: requests new in it begin their prefill."""
        batch = processor.inputs_and_outputs.requests_in_batch
        found = [(known[1], it) for it in batch if (known := self._requests.get(id(it.state))) is not None]
        for request, _ in found:
            request.scheduled(begun_ns)
        if processor.use_async_batching:
            return  # two batches are under way at once: there is no step that begins and ends
        steps = self._steps.get(processor)
        if steps is None:
            steps = self._steps[processor] = EngineSteps(PROVIDER)
        step = steps.step(now_ns=begun_ns, **_load(processor))
        for request, it in found:
            decoding = it.state.generated_len() > 0
            step.share(request, **({"decode_tokens": 1} if decoding else {"prefill_tokens": it.query_length}))
        self._open[id(processor)] = step

    @guarded(PLACE)
    def _step_ends(self, processor: Any, error: BaseException | None) -> None:
        step = self._open.pop(id(processor), None)
        if step is not None:
            step.end(error=error)


def _load(processor: Any) -> Mapping[str, Any]:
    """How full the engine is."""
    scheduler = processor.scheduler
    free = getattr(processor.cache, "compute_free_capacity", None)
    return {
        "running": len(scheduler.active_requests),
        "waiting": len(scheduler.waiting_requests),
        "kv_usage": None if free is None else 1.0 - float(free(relative=True)),
    }
