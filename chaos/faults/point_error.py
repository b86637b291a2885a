"""A place in the code that fails."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiobs.chaos.points.fault import PointFault


@dataclass(frozen=True)
class PointError(PointFault):
    """Raise an exception at the point. One that has been raised cannot be taken back; undone, no more are.

    Attributes:
        point: name of the point, or a function as ``package.module:Class.method``; may come from the target.
        percent: act at so many of a hundred hits.
        count: act at most so many times; 0 for no limit.
        after: do not act at the first so many hits.
        only: ``signed`` to hit only requests that carry the signed baggage entry of `run`.
        key: where the key for that is, ``file:<path>`` or ``env:<name>``, as the process that is hit finds it.
        run: the run that the entry must name.
        error: its type, a builtin or ``package.module.Type``; "" for :class:`aiobs.InjectedError`.
        message: its text.
    """

    kind = "point.error"
    certifies = "what the program does about this exception, from this place"
    limits = "what really raises it: no socket is closed, no file half written"

    error: str = ""
    message: str = "injected"

    def task(self) -> str:
        return f"raise({self.error}, {json.dumps(self.message)})" if self.error else "raise"
