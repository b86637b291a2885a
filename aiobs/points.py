"""Points: named places in code where a fault can be put in while the program runs; free as long as nobody does.

::

    aiobs.point("checkpoint.write")                 # may be slow, raise, hang, …
    loss = aiobs.point("train.loss", loss)          # may come back as NaN

An unarmed point is one look at a byte of the control word. What an armed one does is in :mod:`aiobs.chaos.points`,
which is loaded when the first one is reached.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

from aiobs.guard import swallow
from aiobs.recorder import layout as at
from aiobs.recorder.state import on_new_flight, state

T = TypeVar("T")
_NOBODY = bytes(at.CONTROL + 8)
_memory: Any = _NOBODY
_ARMED = "aiobs.chaos.points.armed"


def point(name: str, value: T = None) -> T:  # type: ignore[assignment]
    """A place where an experiment may inject a fault; gives back `value`, or what a fault makes of it.

    Args:
        name: low-cardinality and dotted, such as ``checkpoint.write``.
        value: what a fault may replace or corrupt; a number can also say at which hit to act.

    Raises:
        whatever an armed fault is told to raise, else nothing.
    """
    # 65 is POINTS_ARMED; a name looked up would be a fifth of the cost.
    return _reached(name, value) if _memory[65] else value


async def point_async(name: str, value: T = None) -> T:  # type: ignore[assignment]
    """The same in a coroutine: latencies and hangs let the event loop go on."""
    if not _memory[65]:
        return value
    armed = _load()
    return value if armed is None else await armed.reached_async(name, value)


def _reached(name: str, value: T) -> T:
    armed = _load()
    return value if armed is None else armed.reached(name, value)


def _load() -> Any:
    try:
        return import_module(_ARMED)
    except Exception as error:
        swallow("points.load", error)
        return None


def _follow() -> None:
    global _memory
    _memory = _NOBODY if state.flight is None else state.flight.mm


def watch() -> None:
    """Look for armed functions from a thread, until :func:`unwatch` (setting ``points="functions"``)."""
    import_module("aiobs.chaos.points.watching").start()


def unwatch() -> None:
    """End that thread."""
    import_module("aiobs.chaos.points.watching").stop()


_follow()
on_new_flight(_follow)
