"""Checkpoints: ``torch.save`` and ``torch.load``, and those of ``torch.distributed.checkpoint``.

A span says what the training loop waited for. Where the writing goes on in the background (``async_save``), a
second span, linked to the first, says how long that took.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from aiobs import names, recorder
from aiobs.guard import guarded
from aiobs.imports import when_imported
from aiobs.patches.torch import loops
from aiobs.patches.torch.around import Disable
from aiobs.recorder import Span
from aiobs.telemetry import CONSUMER, INTERNAL, PRODUCER
from aiobs.wrapping import Live, MakeWrapper, replace

_PLACE = "patches.torch.checkpoint"
_BACKGROUND = "AsyncCheckpointExecutor"
"""Name of the threads in which ``async_save`` writes; their part is covered by the ``checkpoint write`` span."""


class _Thread(threading.local):
    busy = False


_thread = _Thread()


def place_all(disable: Disable) -> list[Callable[[], None]]:
    """Put the wrappers in place, those of ``torch.distributed.checkpoint`` when it is imported."""
    import torch

    undo: list[Callable[[], None]] = []

    def distributed(package: ModuleType) -> None:
        from torch.distributed.checkpoint import state_dict_loader as loader
        from torch.distributed.checkpoint import state_dict_saver as saver

        undo.extend([
            replace(saver, "save", _wrapper(disable, names.SPAN_CHECKPOINT_SAVE, "checkpoint_id"), also=(package,)),
            replace(saver, "async_save", _async_save(disable), also=(package,)),
            replace(loader, "load", _wrapper(disable, names.SPAN_CHECKPOINT_LOAD, "checkpoint_id"), also=(package,)),
        ])  # fmt: skip

    def remove() -> None:
        while undo:
            undo.pop()()

    return [
        replace(torch.serialization, "save", _wrapper(disable, names.SPAN_CHECKPOINT_SAVE, "f"), also=(torch,)),
        replace(torch.serialization, "load", _wrapper(disable, names.SPAN_CHECKPOINT_LOAD, "f"), also=(torch,)),
        remove,
        when_imported("torch.distributed.checkpoint", distributed),
    ]


class _Checkpoint:
    """One call: its span, and what is learned about it on the way."""

    def __init__(self, name: str, target: Any, kind: int) -> None:
        self.path = _path(target)
        self._target = target
        self._before = _position(target)
        loop = self._loop = loops.current()
        if loop is not None:
            loop.pause()
        attributes = {} if self.path is None else {names.CHECKPOINT_PATH: self.path}
        self.span: Span = recorder.start_span(name, attributes, kind=kind, parent=_parent())

    def end(self, error: BaseException | None) -> None:
        if error is not None:
            self.span.fail(error)
        else:
            size = self.size()
            if size is not None:
                self.span.set(names.CHECKPOINT_BYTES, size)
        self.span.end()
        if self._loop is not None:
            self._loop.resume()

    def size(self) -> int | None:
        """Bytes this process has written or read, as far as it can be told without reading them."""
        if self.path is not None:
            try:
                path = Path(self.path)
                if not path.is_dir():
                    return path.stat().st_size
                mine = f"__{recorder.state.route.rank}_"
                return sum(it.stat().st_size for it in os.scandir(path) if it.name.startswith(mine))
            except OSError:
                return None
        after = _position(self._target)
        return None if after is None or self._before is None else max(0, after - self._before)


def _parent() -> Any:
    """A checkpoint belongs to the run's trace, except one that is made in the middle of a step."""
    loop = loops.current()
    return None if loop is not None and loop.steps.open else recorder.state.ambient


def _path(target: Any) -> str | None:
    if isinstance(target, (str, os.PathLike)):
        return os.fsdecode(target)
    name = getattr(target, "name", None)
    return name if isinstance(name, str) else None


def _position(target: Any) -> int | None:
    tell = getattr(target, "tell", None)
    if tell is None:
        return None
    try:
        return int(tell())
    except (OSError, ValueError, TypeError):
        return None


def _within(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `function`; what it calls is a part of this checkpoint, no checkpoint of its own: a distributed
    checkpoint writes each tensor with ``torch.save``."""
    _thread.busy = True
    try:
        return function(*args, **kwargs)
    finally:
        _thread.busy = False


def _starter(disable: Disable, original: Any, name: str, parameter: str, kind: int = INTERNAL) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @guarded(_PLACE, disable)
    def start(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Checkpoint | None:
        if _thread.busy or threading.current_thread().name.startswith(_BACKGROUND):
            return None
        target = signature.bind_partial(*args, **kwargs).arguments.get(parameter)
        return _Checkpoint(name, target, kind)

    return start


def _wrapper(disable: Disable, name: str, parameter: str) -> MakeWrapper:
    def make(original: Any, live: Live) -> Any:
        start = _starter(disable, original, name, parameter)
        end = guarded(_PLACE, disable)(_Checkpoint.end)

        def call(*args: Any, **kwargs: Any) -> Any:
            checkpoint = start(args, kwargs) if live else None
            if checkpoint is None:
                return original(*args, **kwargs)
            try:
                result = _within(original, args, kwargs)
            except BaseException as error:
                end(checkpoint, error)
                raise
            end(checkpoint, None)
            return result

        return call

    return make


def _async_save(disable: Disable) -> MakeWrapper:
    def make(original: Any, live: Live) -> Any:
        start = _starter(disable, original, names.SPAN_CHECKPOINT_SAVE, "checkpoint_id", PRODUCER)
        end = guarded(_PLACE, disable)(_Checkpoint.end)

        @guarded(_PLACE, disable)
        def follow(checkpoint: _Checkpoint, result: Any) -> None:
            checkpoint.span.set(names.CHECKPOINT_ASYNC, True)
            future = getattr(result, "upload_completion", result)
            attributes = {} if checkpoint.path is None else {names.CHECKPOINT_PATH: checkpoint.path}
            writing = recorder.start_span(
                names.SPAN_CHECKPOINT_WRITE,
                attributes,
                kind=CONSUMER,
                parent=recorder.state.ambient,
                links=[checkpoint.span.context],
            )

            @guarded(_PLACE, disable)
            def written(done: Any) -> None:
                error = None if done.cancelled() else done.exception()
                if error is not None:
                    writing.fail(error)
                elif (size := checkpoint.size()) is not None:
                    writing.set(names.CHECKPOINT_BYTES, size)
                writing.end()

            future.add_done_callback(written)

        def async_save(*args: Any, **kwargs: Any) -> Any:
            checkpoint = start(args, kwargs) if live else None
            if checkpoint is None:
                return original(*args, **kwargs)
            try:
                result = _within(original, args, kwargs)
            except BaseException as error:
                end(checkpoint, error)
                raise
            follow(checkpoint, result)
            end(checkpoint, None)
            return result

        return async_save

    return make
