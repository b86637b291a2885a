"""Where a GPU's clock stands against ours: events tell the time between two of them, not the time of day.

An *anchor* is an event whose moment on our clock is known. One is set when a GPU is first seen, with the only
waiting for the GPU there is. From then on once a second, as the two clocks drift apart and the time between
events gets coarser with its length:

- where the GPU is found idle, by an event set there and then, which it reaches at once;
- else at an event that it has reached meanwhile, counted from the anchor before.

What is known anyway keeps it honest: no event is reached before it was recorded, or after it was seen reached.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import sub

from aiobs.patches.torch.cuda_events import Event, Gpus, Place

PERIOD_NS = 1_000_000_000
PATIENCE_NS = 100_000
"""How long an idle GPU may take to reach an event; one that takes longer was not idle."""
AGAIN_NS = 1_000_000
"""A GPU that was not idle is looked at again so much later."""


class Anchor:
    """An event, and when it was reached (monotonic ns)."""

    __slots__ = ("event", "reached_ns")

    def __init__(self, event: Event, reached_ns: int) -> None:
        self.event, self.reached_ns = event, reached_ns

    def place(self, moments: list[int], events: list[Event], seen_ns: int) -> list[int]:
        """When `events` were reached, each recorded after its moment; all of them were by `seen_ns`. Where that cannot
        be, the anchor is moved until it can, and all of them with it."""
        elapsed, base = self.event.elapsed_time, self.reached_ns
        found = [base + int(elapsed(event) * 1e6) for event in events]
        early = max(map(sub, moments, found))
        late = max(found) - seen_ns
        if early > 0 or late > 0:
            wrong = early if early > 0 else -late
            self.reached_ns += wrong
            found = [at + wrong for at in found]
        return found


class Anchors:
    """The anchor of each GPU."""

    def __init__(self, gpus: Gpus, clock: Callable[[], int]) -> None:
        self._gpus, self._clock = gpus, clock
        self._anchors: dict[int, Anchor] = {}
        self._due: dict[int, int] = {}

    def first(self, place: Place) -> Anchor:
        """The anchor of a GPU; where there is none, the GPU is waited for."""
        anchor = self._anchors.get(place.device)
        if anchor is None:
            event = self._gpus.event()
            event.record(place.stream)
            event.synchronize()
            anchor = self._set(place.device, Anchor(event, self._clock()))
        return anchor

    def _set(self, device: int, anchor: Anchor) -> Anchor:
        self._anchors[device] = anchor
        self._due[device] = anchor.reached_ns + PERIOD_NS
        return anchor

    def renew(self, place: Place, now: int, newest: Event) -> tuple[Anchor, int]:
        """The anchor of a GPU, a new one where it is time and the GPU is idle; and when to ask again.

        Args:
            newest: the event that was recorded last in that place.
        """
        device = place.device
        anchor = self._anchors[device]
        if now < self._due[device]:
            return anchor, min(self._due[device], now + PERIOD_NS)
        if not newest.query():
            return anchor, now + AGAIN_NS
        event = self._gpus.event()
        event.record(place.stream)
        until = self._clock() + PATIENCE_NS
        while not event.query():
            if self._clock() > until:
                self._due[device] = now + PERIOD_NS
                return anchor, now + PERIOD_NS
        anchor = self._set(device, Anchor(event, self._clock()))
        return anchor, self._due[device]

    def move(self, device: int, event: Event, reached_ns: int) -> bool:
        """Offer an event that has been reached as the next anchor; returns whether it was taken, for good. An idle
        moment is wanted all the same."""
        if reached_ns - self._anchors[device].reached_ns < PERIOD_NS:
            return False
        self._anchors[device] = Anchor(event, reached_ns)
        return True
