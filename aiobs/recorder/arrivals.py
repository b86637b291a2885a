"""When a GPU reached moments of a thread's work: known only later, and written then."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from struct import pack

from aiobs.guard import swallow
from aiobs.recorder import layout as at
from aiobs.recorder.state import state

_FIELDS = at.ARRIVAL.format.lstrip("<")
Arrival = tuple[int, int, int]
"""A moment and when the GPU was there (monotonic ns), and the number of the GPU."""


def write_arrivals(thread: int, arrivals: Sequence[Arrival], until_ns: int, dropped: int = 0) -> None:
    """Record `arrivals` of the thread with that number, moments ascending.

    Args:
        until_ns: no moment up to it is still to come; 0 with no arrivals: they will come from now on.
        dropped: moments that were given up.
    """
    flight = state.flight
    if flight is None:
        return
    try:
        payload = pack("<" + _FIELDS * len(arrivals), *chain.from_iterable(arrivals)) if arrivals else b""
        start = arrivals[0][0] if arrivals else until_ns
        flight.write(at.ARRIVALS, 0, at.NO_SLOT, 0, (0, 0), 0, 0, thread, start, dropped, until_ns, payload)
    except Exception as error:
        flight.add(at.UNRECORDED)
        swallow("recorder.arrivals", error)
