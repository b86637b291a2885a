"""Where our own faults stop: the one home of ``except Exception`` around code that runs inside the user's.

A fault is logged once for each place, counted, and may switch the faulty part off; the user's program never
sees it. With ``AIOBS_RAISE=1`` (our own tests) it is raised instead.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

logger = logging.getLogger("aiobs")
# Without this a user who configured no logging would get our warnings through logging's last resort
# with no way to see where they come from; they still reach every handler the user has set up.
_said: set[str] = set()
_listeners: list[Callable[[], None]] = []
faults = 0
"""Faults swallowed in this process."""

F = TypeVar("F", bound=Callable[..., Any])


def raising() -> bool:
    """Whether our faults are to be raised (our own tests)."""
    return os.environ.get("AIOBS_RAISE") == "1"


def say_once(key: str, message: str, *args: object) -> None:
    """Log a warning, once per process and `key`."""
    if key not in _said:
        _said.add(key)
        logger.warning(message, *args)


def swallow(place: str, error: BaseException) -> None:
    """Deal with `error`, which happened in our code at `place` (a dotted name); call it inside ``except``.

    Raises:
        the error itself, where :func:`raising`.
    """
    global faults
    faults += 1
    for listener in _listeners:
        listener()
    if raising():
        raise error
    say_once(place, "aiobs: fault in %s, ignored: %s: %s", place, type(error).__name__, error)


def on_fault(listener: Callable[[], None]) -> None:
    """Call `listener` at each fault (the recorder counts them in the flight record)."""
    _listeners.append(listener)


def guarded(place: str, disable: Callable[[], None] | None = None) -> Callable[[F], F]:
    """Decorate a callback of ours that runs inside the user's code: it returns None instead of raising.

    Args:
        place: dotted name for the log.
        disable: called after a fault, to take the faulty part out.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if disable is not None:
                    disable()
                swallow(place, error)
                return None

        return call  # type: ignore[return-value]

    return decorate
