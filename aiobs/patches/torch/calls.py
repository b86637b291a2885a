"""Calls of the models being trained, and the moments at which new ones may have come about.

A model's class gets a ``__call__`` that tells the loop, for watched instances alone. Hooks on the model itself
would be copied and pickled with it, global ones would break compiled graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from aiobs.guard import swallow
from aiobs.imports import when_imported
from aiobs.patches.torch import loops, out_of_memory
from aiobs.patches.torch.around import PLACE, Disable
from aiobs.wrapping import Live, MakeWrapper, Undo, replace


def place_all(disable: Disable) -> list[Callable[[], None]]:
    """Watch for models: when an optimizer is made, and when a model is wrapped into another module."""
    from torch.nn.parallel import DistributedDataParallel
    from torch.optim import Optimizer

    watcher = Watcher(disable)
    models = loops.models
    models.watch = watcher.watch
    undo: list[Callable[[], None]] = []

    def wrapper_kind(name: str) -> Callable[[ModuleType], None]:
        def arrived(module: ModuleType) -> None:
            undo.append(replace(getattr(module, name), "__init__", _init(disable, _wrapped)))

        return arrived

    def remove() -> None:
        while undo:
            undo.pop()()

    return [
        watcher.remove,
        replace(Optimizer, "__init__", _init(disable, lambda _optimizer, _args: models.look("made"))),
        replace(DistributedDataParallel, "__init__", _init(disable, _wrapped)),
        remove,
        when_imported("torch._dynamo.eval_frame", wrapper_kind("OptimizedModule")),
        when_imported("torch.distributed.fsdp.fully_sharded_data_parallel", wrapper_kind("FullyShardedDataParallel")),
    ]


def _wrapped(wrapper: Any, args: tuple[Any, ...]) -> None:
    if args:
        loops.models.wrapped(wrapper, args[0])


def _init(disable: Disable, made: Callable[[Any, tuple[Any, ...]], object]) -> MakeWrapper:
    def make(original: Any, live: Live) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if live:
                try:
                    made(self, (*args, *kwargs.values()))
                except Exception as error:
                    disable()
                    swallow(PLACE, error)

        return __init__

    return make


class Watcher:
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
        disable = self._disable

        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or id(self) not in watched or not live:
                return original(self, *args, **kwargs)
            loop = None
            token = 0
            try:
                loop = loops.current()
                if loop is not None:
                    token = loop.call_begin(self, is_grad_enabled())
            except Exception as error:
                disable()
                swallow(PLACE, error)
            try:
                return original(self, *args, **kwargs)
            except out_of_memory.ERRORS as error:
                out_of_memory.leaves(error)
                raise
            finally:
                if loop is not None:
                    try:
                        loop.call_end(token)
                    except Exception as error:
                        disable()
                        swallow(PLACE, error)

        return __call__
