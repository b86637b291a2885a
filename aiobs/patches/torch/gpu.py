"""The GPU side of training loops: made once the program itself has initialised CUDA, never before."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from aiobs import names, recorder
from aiobs.device.fake import VARIABLE
from aiobs.guard import guarded, swallow
from aiobs.patches.torch import memory
from aiobs.patches.torch.cuda_events import Gpus, TorchGpus, captures
from aiobs.patches.torch.device_time import DeviceTime
from aiobs.patches.torch.gpu_identity import Identity
from aiobs.settings import Settings
from aiobs.wrapping import Live, replace

_PLACE = "patches.torch.gpu"


class GpuSide:
    """What this process knows of its GPUs.

    Attributes:
        used: CUDA has been initialised by the program.
        gpus: where device time is to be had from; None: not wanted.
        history: allocations to be remembered, 0 where none are.
    """

    def __init__(self) -> None:
        self.used = False
        self.gpus: Gpus | None = None
        self.history = 0
        self.timed = False
        self.identity = Identity()
        self._memory: memory.Memory | None = None
        self._undo: list[Callable[[], None]] = []

    def start(self) -> None:
        """The program has initialised CUDA."""
        self.used = True
        self.gpus = TorchGpus() if self.timed else None
        self._memory = memory.Memory()
        self.identity.look()
        if self.history:
            self._undo.append(memory.keep_history(self.history))

    def stop(self) -> None:
        """Know nothing any more."""
        while self._undo:
            self._undo.pop()()
        self.__init__()  # type: ignore[misc]

    def time(self, thread: int) -> DeviceTime | None:
        """For the loop of the thread with that number; None where device time cannot be had."""
        return None if self.gpus is None else DeviceTime(self.gpus, thread)

    def step_ends(self, steps: recorder.Steps) -> None:
        """A step is about to be closed."""
        try:
            if self._memory is not None and steps.open:
                self._memory.step_ends(steps)
            self.identity.step_ended()
        except Exception as error:
            self._memory = None
            swallow(_PLACE, error)


side = GpuSide()


def place_all(settings: Settings) -> list[Callable[[], None]]:
    """Wait for the program to initialise CUDA, where this build of PyTorch has it."""
    import torch

    if os.environ.get(VARIABLE) or not (torch.version.cuda or torch.version.hip):
        return []  # among fake GPUs a process has one from its start (aiobs.device.fake.claim)
    side.timed = settings.device_time == "auto"
    side.history = settings.memory_history
    live = [True]

    @guarded(_PLACE)
    def started() -> None:
        if live:
            side.start()

    # Called at once where CUDA is initialised already, else by the call that initialises it.
    call_lazily: Any = torch.cuda._lazy_call
    call_lazily(started)
    return [live.clear, side.stop, replace(torch.cuda, "set_device", _set_device), *captures.place()]


def _set_device(original: Any, live: Live) -> Any:
    @guarded(_PLACE)
    def look() -> None:
        side.identity.look()

    def set_device(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if live and side.used:
            look()
        return result

    return set_device


def _forget() -> None:
    """A forked child has no part in its parent's CUDA, and may begin its own."""
    side.__init__()  # type: ignore[misc]
    if not os.environ.get(VARIABLE):
        recorder.state.resource.pop(names.GPU_IDS, None)
    captures.count = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
