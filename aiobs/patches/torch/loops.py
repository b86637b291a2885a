"""The training loops of this process, one for each thread that trains, and what they all know of its models."""

from __future__ import annotations

import os
import threading

from aiobs.patches.torch.loop import Loop
from aiobs.patches.torch.models import Models


class _Thread(threading.local):
    loop: Loop | None = None


_thread = _Thread()
_loops: list[Loop] = []
models = Models()


def current() -> Loop | None:
    """This thread's loop: the main thread has one, another thread only once it has trained."""
    loop = _thread.loop
    if loop is None and threading.current_thread() is threading.main_thread():
        return begin()
    return loop


def begin() -> Loop:
    """This thread's loop, made where there is none."""
    loop = _thread.loop
    if loop is None:
        loop = _thread.loop = Loop(models)
        _loops.append(loop)
    return loop


def finish() -> None:
    """Finish every loop; those of other threads are taken to stand still."""
    while _loops:
        _loops.pop().finish()
    _forget()


def _forget() -> None:
    global _thread
    _loops.clear()
    _thread = _Thread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
