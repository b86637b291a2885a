"""The moments of a training loop: what is put in the place of which function of PyTorch.

None of it is inside a compiled graph, or it steps aside there: each wrapper first asks
``torch.compiler.is_compiling()``, which a compiler turns into a constant. Nothing is attached to any module,
optimizer or tensor, so copies, pickles and checkpoints of them are as without us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiobs.guard import swallow
from aiobs.patches.torch import loops, out_of_memory
from aiobs.patches.torch.around import PLACE, Disable, around
from aiobs.patches.torch.loop import Loop
from aiobs.wrapping import Live, MakeWrapper, replace


def place_all(disable: Disable) -> list[Callable[[], None]]:
    """Put all of them in place; returns what takes them out again. `disable` is called when ours fails."""
    import torch
    from torch.amp import GradScaler
    from torch.optim import Optimizer
    from torch.utils.data import DataLoader
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    loops.models.step_code = next(
        (it for it in Optimizer.profile_hook_step.__code__.co_consts if hasattr(it, "co_code")), None
    )
    return [
        replace(_BaseDataLoaderIter, "__next__", _next(disable)),
        replace(DataLoader, "__iter__", _iter(disable)),
        replace(
            torch.autograd,
            "backward",
            around(disable, lambda loop, _: loop.backward_begin(), Loop.backward_end, loops.begin),
        ),
        replace(GradScaler, "step", _scaler_step(disable)),
        replace(GradScaler, "update", around(disable, lambda loop, _: loop.update_begin(), Loop.update_end)),
        *_optimizer_hooks(disable),
    ]


def _next(disable: Disable) -> MakeWrapper:
    def make(original: Any, live: Live) -> Any:
        def __next__(self: Any) -> Any:
            if not live:
                return original(self)
            loop = None
            token = 0
            try:
                loop = loops.current()
                if loop is not None:
                    token = loop.data_begin(self)
            except Exception as error:
                disable()
                swallow(PLACE, error)
            exhausted = False
            try:
                if loop is not None:
                    loop.at_step()
                return original(self)
            except StopIteration:
                exhausted = True
                raise
            except out_of_memory.ERRORS as error:
                out_of_memory.leaves(error)
                raise
            finally:
                if loop is not None:
                    try:
                        loop.data_end(token, exhausted)
                    except Exception as error:
                        disable()
                        swallow(PLACE, error)

        return __next__

    return make


def _iter(disable: Disable) -> MakeWrapper:
    """Starting a loader's workers takes a while, at the beginning of each epoch; one without them is not told of."""

    def begin(loop: Loop, args: tuple[Any, ...]) -> int | None:
        loader = args[0]
        started = loader.persistent_workers and loader._iterator is not None
        return loop.workers_begin(loader) if loader.num_workers > 0 and not started else None

    return around(disable, begin, Loop.workers_end)


def _optimizer_hooks(disable: Disable) -> list[Callable[[], None]]:
    from torch.compiler import is_compiling
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    def before(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if is_compiling():
            return
        begin(optimizer)

    def begin(optimizer: Any) -> None:
        try:
            loop = loops.current()
            if loop is not None:
                loop.optimizer_begin(id(optimizer))
        except Exception as error:
            disable()
            swallow(PLACE, error)

    def after(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if is_compiling():
            return
        end(optimizer)

    def end(optimizer: Any) -> None:
        try:
            loop = loops.current()
            if loop is not None:
                loop.optimizer_end(id(optimizer))
        except Exception as error:
            disable()
            swallow(PLACE, error)

    return [register_optimizer_step_pre_hook(before).remove, register_optimizer_step_post_hook(after).remove]


def _scaler_step(disable: Disable) -> MakeWrapper:
    def make(original: Any, live: Live) -> Any:
        def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if not live:
                return original(self, optimizer, *args, **kwargs)
            loop = None
            token = 0
            try:
                loop = loops.current()
                if loop is not None:
                    token = loop.scaler_begin(id(optimizer))
            except Exception as error:
                disable()
                swallow(PLACE, error)
            raised = True
            try:
                result = original(self, optimizer, *args, **kwargs)
                raised = False
                return result
            except out_of_memory.ERRORS as error:
                out_of_memory.leaves(error)
                raise
            finally:
                if loop is not None:
                    try:
                        loop.scaler_end(token, id(optimizer), not raised and _overflowed(self, optimizer), raised)
                    except Exception as error:
                        disable()
                        swallow(PLACE, error)

        return step

    return make


def _overflowed(scaler: Any, optimizer: Any) -> bool:
    """Whether a fused optimizer, which always runs, was told to change nothing; known only for what lies in
    main memory, since asking a GPU would wait for it."""
    if not scaler.is_enabled() or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    found = scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values()
    return any(it.device.type == "cpu" and bool(it.item()) for it in found)
