"""Process groups: who this process is among its ranks, and the collectives a script calls by itself.

What DDP and FSDP do inside happens in C++ or within backward and counts there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from aiobs import names, recorder
from aiobs.guard import guarded
from aiobs.patches.torch.around import Disable, around
from aiobs.patches.torch.loop import Loop
from aiobs.wrapping import Live, MakeWrapper, replace

_PLACE = "patches.torch.distributed"

COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "all_to_all_single",
    "barrier", "broadcast", "broadcast_object_list", "gather", "gather_object", "monitored_barrier", "recv", "reduce",
    "reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list", "send",
)  # fmt: skip


def place_all(disable: Disable) -> list[Callable[[], None]]:
    """Put the wrappers in place, where this build of PyTorch has process groups."""
    import torch.distributed as package

    if not package.is_available():
        return []
    from torch.distributed import distributed_c10d as home

    undo: list[Callable[[], None]] = []

    def collectives() -> None:
        if undo:
            return
        # PyTorch's compiler knows collectives by identity, from this module's import on, which takes a while:
        # not before there is a process group, and it must see the originals.
        import_module("torch.distributed._functional_collectives")

        there = [name for name in COLLECTIVES if hasattr(home, name)]
        undo.extend(replace(home, name, _collective(disable, name), also=(package,)) for name in there)

    def remove() -> None:
        while undo:
            undo.pop()()

    return [replace(home, "init_process_group", _init(disable, home, collectives), also=(package,)), remove]


def _init(disable: Disable, home: Any, collectives: Callable[[], None]) -> MakeWrapper:
    def make(original: Any, live: Live) -> Any:
        @guarded(_PLACE, disable)
        def begin() -> Any:
            return recorder.start_span(names.SPAN_INIT, parent=recorder.state.ambient)

        @guarded(_PLACE, disable)
        def end(span: Any, error: BaseException | None) -> None:
            if error is not None:
                span.fail(error)
            else:
                _identify(home.get_rank(), home.get_world_size())
                collectives()
                span.set_all({names.RANK: home.get_rank(), names.WORLD_SIZE: home.get_world_size()})
            span.end()

        def init_process_group(*args: Any, **kwargs: Any) -> Any:
            span = begin() if live else None
            if span is None:
                return original(*args, **kwargs)
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                end(span, error)
                raise
            end(span, None)
            return result

        return init_process_group

    return make


def _identify(rank: int, world_size: int) -> None:
    """Say which rank this process is; from now on its steps are that rank's part of the steps' traces."""
    attributes: dict[str, Any] = {names.RANK: rank, names.WORLD_SIZE: world_size}
    changes: dict[str, Any] = {"rank": rank, "world_size": world_size}
    for variable, name in (("LOCAL_RANK", names.LOCAL_RANK), ("GROUP_RANK", names.NODE_RANK)):
        value = os.environ.get(variable, "")
        if value.isdigit():
            attributes[name] = int(value)
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    if restarts.isdigit():
        attributes[names.RUN_ATTEMPT] = changes["attempt"] = int(restarts)
    recorder.set_resource(attributes)
    recorder.set_route(**changes)


def _collective(disable: Disable, name: str) -> MakeWrapper:
    def begin(loop: Loop, _args: tuple[Any, ...]) -> int | None:
        return loop.collective_begin(name) if loop.steps.open else None

    return around(disable, begin, Loop.collective_end)
