"""A thread that looks for armed functions, where the process asked for it (``AIOBS_POINTS=functions``)."""

from __future__ import annotations

import threading

from aiobs.chaos.points import armed
from aiobs.recorder import layout as at
from aiobs.recorder.state import on_new_flight, state

EVERY_S = 0.05
_over = threading.Event()
_wanted = False


def start() -> None:
    """Begin, also after a fork and with each new flight record."""
    global _wanted
    if not _wanted:
        _wanted = True
        on_new_flight(_begin)
    _begin()


def stop() -> None:
    """End it."""
    global _wanted
    _wanted = False
    _over.set()


def _begin() -> None:
    global _over
    _over.set()
    flight = state.flight
    if flight is None or not _wanted:
        return
    flight.mm[at.POINTS_WATCHED] = 1
    _over = threading.Event()
    threading.Thread(target=_watch, args=(_over,), name="aiobs-points", daemon=True).start()


def _watch(over: threading.Event) -> None:
    while not over.wait(EVERY_S):
        armed.look()
