"""Signals that end the demo: one ends it at once, but never in the middle of tidying up."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedError(BaseException):
    """A signal came. No ``Exception``: nobody on the way out may take it for a failure of its own.

    Attributes:
        code: the exit code that tells it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


class Ending:
    """Takes the signals while it is entered. The first one raises :class:`EndedError`; further ones change nothing."""

    def __init__(self) -> None:
        self._number = self._held = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Ending:
        for number in NUMBERS:
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _take(self, number: int, _: FrameType | None) -> None:
        if not self._number:
            self._number = number
            if not self._held:
                raise EndedError(number)

    def undisturbed(self, tidy_up: Callable[[], object]) -> None:
        """Do it to its end, whatever comes; a signal that came meanwhile is raised afterwards."""
        first, self._held = self._number, self._held + 1
        try:
            tidy_up()
        finally:
            self._held -= 1
        if self._number and not first and not self._held:
            raise EndedError(self._number)
