"""The moments of a training loop: what is put in the place of which function of PyTorch.

None of it is inside a compiled graph, or it steps aside there: each wrapper first asks
``torch.compiler.is_compiling()``, which a compiler turns into a constant. Nothing is attached to any module,
optimizer or tensor, so copies, pickles and checkpoints of them are as without us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiobs.guard import guarded
from aiobs.patches.torch import loop as loops
from aiobs.wrapping import Live, Undo, replace

Disable = Callable[[], None]
_PLACE = "patches.torch.loop"


def place_all(disable: Disable) -> list[Callable[[], None]]:
    """Put all of them in place; returns what takes them out again. `disable` is called when ours fails."""
    from torch.amp import GradScaler
    from torch.optim import Optimizer
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    import torch

    models = loops.models
    models.step_code = next((it for it in Optimizer.profile_hook_step.__code__.co_consts if hasattr(it, "co_code")), None)
    models.watch = (watcher := _Watcher(disable)).watch
    return [
        watcher.remove,
        replace(_BaseDataLoaderIter, "__next__", _next(disable)),
        replace(torch.autograd, "backward", _backward(disable)),
        replace(GradScaler, "step", _scaler_step(disable)),
        replace(GradScaler, "update", _scaler_update(disable)),
        *_optimizer_hooks(disable),
    ]


def _next(disable: Disable) -> Callable[[Any, Live], Any]:
    def make(original: Any, live: Live) -> Any:
        @guarded(_PLACE, disable)
        def begin() -> Any:
            loop = loops.current()
            return None if loop is None else (loop, loop.data_begin())

        @guarded(_PLACE, disable)
        def end(moment: Any, exhausted: bool) -> None:
            moment[0].data_end(moment[1], exhausted)

        def __next__(self: Any) -> Any:
            if not live:
                return original(self)
            moment = begin()
            exhausted = True
            try:
                batch = original(self)
                exhausted = False
                return batch
            finally:
                if moment is not None:
                    end(moment, exhausted)

        return __next__

    return make


def _backward(disable: Disable) -> Callable[[Any, Live], Any]:
    from torch.compiler import is_compiling

    def make(original: Any, live: Live) -> Any:
        @guarded(_PLACE, disable)
        def begin() -> Any:
            loop = loops.begin()
            return loop, loop.backward_begin()

        @guarded(_PLACE, disable)
        def end(moment: Any) -> None:
            moment[0].backward_end(moment[1])

        def backward(*args: Any, **kwargs: Any) -> Any:
            if is_compiling() or not live:
                return original(*args, **kwargs)
            moment = begin()
            try:
                return original(*args, **kwargs)
            finally:
                if moment is not None:
                    end(moment)

        return backward

    return make


def _optimizer_hooks(disable: Disable) -> list[Callable[[], None]]:
    from torch.compiler import is_compiling
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    @guarded(_PLACE, disable)
    def begin(optimizer: Any) -> None:
        loop = loops.current()
        if loop is not None:
            loop.optimizer_begin(id(optimizer))

    @guarded(_PLACE, disable)
    def end(optimizer: Any) -> None:
        loop = loops.current()
        if loop is not None:
            loop.optimizer_end(id(optimizer))

    def before(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if is_compiling():
            return
        begin(optimizer)

    def after(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if is_compiling():
            return
        end(optimizer)

    return [register_optimizer_step_pre_hook(before).remove, register_optimizer_step_post_hook(after).remove]


def _scaler_step(disable: Disable) -> Callable[[Any, Live], Any]:
    def make(original: Any, live: Live) -> Any:
        @guarded(_PLACE, disable)
        def begin(optimizer: Any) -> Any:
            loop = loops.current()
            return None if loop is None else (loop, loop.scaler_begin(id(optimizer)))

        @guarded(_PLACE, disable)
        def end(moment: Any, scaler: Any, optimizer: Any, raised: bool) -> None:
            moment[0].scaler_end(moment[1], id(optimizer), not raised and _overflowed(scaler, optimizer), raised)

        def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if not live:
                return original(self, optimizer, *args, **kwargs)
            moment = begin(optimizer)
            raised = True
            try:
                result = original(self, optimizer, *args, **kwargs)
                raised = False
                return result
            finally:
                if moment is not None:
                    end(moment, self, optimizer, raised)

        return step

    return make


def _overflowed(scaler: Any, optimizer: Any) -> bool:
    """Whether a fused optimizer, which always runs, was told to change nothing; known only for what lies in
    main memory, since asking a GPU would wait for it."""
    if not scaler.is_enabled() or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    found = scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values()
    return any(it.device.type == "cpu" and bool(it.item()) for it in found)


def _scaler_update(disable: Disable) -> Callable[[Any, Live], Any]:
    def make(original: Any, live: Live) -> Any:
        @guarded(_PLACE, disable)
        def begin() -> Any:
            loop = loops.current()
            return None if loop is None else (loop, loop.update_begin())

        @guarded(_PLACE, disable)
        def end(moment: Any) -> None:
            moment[0].update_end(moment[1])

        def update(*args: Any, **kwargs: Any) -> Any:
            if not live:
                return original(*args, **kwargs)
            moment = begin()
            try:
                return original(*args, **kwargs)
            finally:
                if moment is not None:
                    end(moment)

        return update

    return make


class _Watcher:
    """Makes calls of watched models known, by way of their classes."""

    def __init__(self, disable: Disable) -> None:
        self._disable = disable
        self._undo: dict[type, Undo] = {}

    def watch(self, kind: type) -> None:
        """Have calls of the watched instances of `kind` noticed."""
        if kind not in self._undo:
            self._undo[kind] = replace(kind, "__call__", self._call)

    def remove(self) -> None:
        """Leave all classes as they were."""
        while self._undo:
            self._undo.popitem()[1]()

    def _call(self, original: Any, live: Live) -> Any:
        from torch import is_grad_enabled
        from torch.compiler import is_compiling

        watched = loops.models.watched

        @guarded(_PLACE, self._disable)
        def begin(model: Any) -> Any:
            loop = loops.current()
            return None if loop is None else (loop, loop.call_begin(model, is_grad_enabled()))

        @guarded(_PLACE, self._disable)
        def end(moment: Any) -> None:
            moment[0].call_end(moment[1])

        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or id(self) not in watched or not live:
                return original(self, *args, **kwargs)
            moment = begin(self)
            try:
                return original(self, *args, **kwargs)
            finally:
                if moment is not None:
                    end(moment)

        return __call__


