"""Any function as a point, ``package.module:Class.method``: wrapped while it is armed, the very same object after."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from aiobs.errors import PatchError
from aiobs.imports import when_imported
from aiobs.wrapping import Undo, wrap

Decide = Callable[[str], Any]
Remember = Callable[[str, Any], None]
Refuse = Callable[[str], None]

_placed: dict[str, list[Callable[[], None]]] = {}
"""By name of the point: what takes its wrapper out."""


def follow(wanted: Mapping[str, Refuse], decide: Decide, remember: Remember) -> None:
    """Wrap what is wanted and is not yet, unwrap what is no longer. One in a module that has not been imported is
    wrapped once it is.

    Args:
        wanted: by name of the point, what to call with a reason where it cannot be wrapped.
    """
    for name in _placed.keys() - wanted.keys():
        for undo in _placed.pop(name):
            undo()
    for name, refuse in wanted.items():
        if name not in _placed:
            _place(name, refuse, decide, remember)


def _place(name: str, refuse: Refuse, decide: Decide, remember: Remember) -> None:
    module_name, _, path = name.partition(":")
    undoing: list[Callable[[], None]] = []
    _placed[name] = undoing

    def arrived(module: ModuleType) -> None:
        *outer, last = path.split(".")
        owner: Any = module
        try:
            for part in outer:
                owner = getattr(owner, part)
            undoing.append(_wrap(owner, last, name, decide, remember))
        except (AttributeError, PatchError) as error:
            refuse(f"{name} cannot be wrapped: {error}")

    undoing.append(when_imported(module_name, arrived))


def _wrap(owner: Any, last: str, name: str, decide: Decide, remember: Remember) -> Undo:
    from aiobs.chaos.points.acting import held, held_async
    from aiobs.chaos.points.armed import changed

    original = inspect.unwrap(getattr(owner, last))

    def after(action: Any, result: Any) -> Any:
        shown = changed(action, result) if action is not None and action.on_result(None) else result
        remember(name, result)
        return shown

    def plain(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        action = decide(name)
        if action is not None:
            held(action)
            if action.replaces:
                return action.change(None)
        return after(action, wrapped(*args, **kwargs))

    async def waited(wrapped: Any, args: Any, kwargs: Any) -> Any:
        action = decide(name)
        if action is not None:
            await held_async(action)
            if action.replaces:
                return action.change(None)
        return after(action, await wrapped(*args, **kwargs))

    def items(wrapped: Any, args: Any, kwargs: Any) -> Any:
        generator = wrapped(*args, **kwargs)
        try:
            sent: Any = None
            while True:
                action = decide(name)
                if action is not None:
                    held(action)
                try:
                    item = generator.send(sent)
                except StopIteration as stop:
                    return stop.value
                item = action.change(None) if action is not None and action.replaces else after(action, item)
                sent = yield item
        finally:
            generator.close()

    async def items_async(wrapped: Any, args: Any, kwargs: Any) -> Any:
        generator = wrapped(*args, **kwargs)
        try:
            sent: Any = None
            while True:
                action = decide(name)
                if action is not None:
                    await held_async(action)
                try:
                    item = await generator.asend(sent)
                except StopAsyncIteration:
                    return
                item = action.change(None) if action is not None and action.replaces else after(action, item)
                sent = yield item
        finally:
            await generator.aclose()

    if inspect.isasyncgenfunction(original):
        return wrap(owner, last, lambda wrapped, _, args, kwargs: items_async(wrapped, args, kwargs))
    if inspect.iscoroutinefunction(original):
        return wrap(owner, last, lambda wrapped, _, args, kwargs: waited(wrapped, args, kwargs))
    if inspect.isgeneratorfunction(original):
        return wrap(owner, last, lambda wrapped, _, args, kwargs: items(wrapped, args, kwargs))
    return wrap(owner, last, plain)
