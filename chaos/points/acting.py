"""What an armed point does at a hit."""

from __future__ import annotations

import asyncio
import builtins
import json
import os
import signal
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aiobs.chaos.points import corrupting
from aiobs.chaos.points.grammar import VALUES, Term
from aiobs.clock import monotonic_ns
from aiobs.errors import InjectedError, PlanError

if TYPE_CHECKING:
    from aiobs.chaos.points.armed import Armed

TICK_S = 0.01
"""How often a call that is held looks whether it may go on."""


class Action:
    """One term of an armed point, at one hit."""

    def __init__(self, armed: Armed, term: Term) -> None:
        self.armed, self.term = armed, term

    @staticmethod
    def prepare(term: Term) -> None:
        """Raises PlanError where the task cannot be done in this process."""
        if term.task == "raise":
            _type_of(term.arguments[0])

    @property
    def replaces(self) -> bool:
        """Whether a function's call is left out."""
        return self.term.task == "return"

    def on_result(self, value: object) -> bool:
        """Whether it waits for the result of a function to act on."""
        return value is None and self.term.task in VALUES and not self.replaces

    def unfit(self, value: Any) -> str:
        """Why `value` cannot be corrupted, "" where it can or nothing is to be."""
        task = self.term.task
        if value is None or task not in VALUES or task == "return":
            return ""
        if task == "stale":
            return ""
        return corrupting.unfit(task, value)

    def change(self, value: Any) -> Any:
        """The point's value afterwards."""
        task = self.term.task
        if task == "return":
            return json.loads(self.term.arguments[0])
        if value is None or task not in VALUES:
            return value
        if task == "stale":
            return corrupting.copy_of(self.armed.previous[0]) if self.armed.previous is not None else value
        if task == "nan":
            return corrupting.nan(value, self.armed.program.random)
        return corrupting.bitflip(value, self.term.arguments[0], self.armed.program.random)

    def ends_ns(self) -> int:
        """Until when a call is held, monotonic."""
        if self.term.task == "hang":
            return sys.maxsize
        return monotonic_ns() + int(self.term.arguments[0] * 1_000_000) if self.term.task == "sleep" else 0


def held(action: Action) -> None:
    """Do what comes before the point goes on; raises what it is told to."""
    ends = action.ends_ns()
    if not ends:
        _act(action)
        return
    with _Inside(action):
        while (left := min(TICK_S, (ends - monotonic_ns()) / 1e9)) > 0 and _standing(action):
            time.sleep(left)


async def held_async(action: Action) -> None:
    """The same in a coroutine: its event loop goes on while it is held."""
    ends = action.ends_ns()
    if not ends:
        _act(action)
        return
    with _Inside(action):
        while (left := min(TICK_S, (ends - monotonic_ns()) / 1e9)) > 0 and _standing(action):  # noqa: ASYNC110 - who ends it is another process
            await asyncio.sleep(left)


class _Inside:
    """Tells outside that a call is held."""

    def __init__(self, action: Action) -> None:
        self._action = action

    def __enter__(self) -> None:
        self._add(1)

    def __exit__(self, *_: object) -> None:
        self._add(-1)

    def _add(self, more: int) -> None:
        from aiobs.chaos.points import armed

        armed.held_inside(self._action.armed, more)


def _standing(action: Action) -> bool:
    from aiobs.chaos.points.armed import standing

    return standing(action.armed)


def _act(action: Action) -> None:
    task, arguments = action.term.task, action.term.arguments
    if task == "raise":
        raise _error(*arguments)
    if task == "oom":
        raise _out_of_memory()
    if task == "kill":
        os.kill(os.getpid(), signal.Signals(arguments[0]))
    elif task == "exit":
        os._exit(arguments[0])
    elif task == "gil":
        _hold_gil(min(arguments[0] / 1e3, (action.armed.order.expires_ns - monotonic_ns()) / 1e9))


def _hold_gil(seconds: float) -> None:
    import ctypes

    # PyDLL calls without letting go of the GIL; a signal ends a sleep early.
    sleep = ctypes.PyDLL(None).usleep
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        sleep(ctypes.c_uint(int(left * 1e6) + 1))


def _type_of(name: str) -> type[BaseException]:
    if not name:
        return InjectedError
    module, _, kind = name.rpartition(".")
    try:
        found = getattr(import_module(module) if module else builtins, kind, None)
    except ImportError as error:
        raise PlanError("what", name, f"that module cannot be imported in the process: {error}") from None
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise PlanError("what", name, "is no exception in the process; write a builtin or package.module.Type")
    return found


def _error(name: str, message: str) -> BaseException:
    kind = _type_of(name)
    try:
        return kind(message)
    except Exception:  # noqa: BLE001 - its constructor wants something else, which is not ours to know
        made = kind.__new__(kind)
        made.args = (message,)
        return made


def _out_of_memory() -> BaseException:
    torch = sys.modules.get("torch")
    kind = getattr(torch, "OutOfMemoryError", MemoryError)
    made: BaseException = kind("out of memory (injected)")
    return made
