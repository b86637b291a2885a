"""When a GPU reaches the boundaries of a training step's phases, found out without ever waiting for it.

At each boundary, a *moment*, an event is recorded in the stream that is current then. Some steps later the GPU has
passed it, which is asked, not waited for; the time it was reached is then written, on our clock. What it means is
the agent's business (:mod:`aiobs.agent.device_time`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat

from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.patches.torch.cuda_events import Event, Gpus, Place
from aiobs.patches.torch.wall_anchor import Anchor, Anchors
from aiobs.recorder import Arrival, write_arrivals

TURN_MOMENTS = 256
"""Moments that are settled together at most; usually those of a step."""
TURNS_LIMIT = 32
"""Turns that may wait for the GPU: many more than its own queue lets the program run ahead."""
TURNS_AT_ONCE = 4
"""Turns settled at the end of one step, so that none of them takes long."""
POOL_LIMIT = 1024
LANES_LIMIT = 256
NEVER = 1 << 63
PLACE = "patches.torch.device_time"


class Lane:
    """A stream as the loop uses it.

    Attributes:
        pool: events of its GPU that are free. `newest`: the one recorded last.
        anchor: of its GPU. `due_ns`: when to look after it.
    """

    __slots__ = ("anchor", "due_ns", "newest", "place", "pool")

    def __init__(self, place: Place, pool: list[Event], anchor: Anchor) -> None:
        self.place, self.pool, self.anchor = place, pool, anchor
        self.due_ns = 0
        self.newest = anchor.event


class Stretch:
    """Moments that follow each other in one lane, and their events; they are placed by one anchor."""

    __slots__ = ("anchor", "events", "lane", "moments")

    def __init__(self, lane: Lane) -> None:
        self.lane, self.anchor = lane, lane.anchor
        self.moments: list[int] = []
        self.events: list[Event] = []


class DeviceTime:
    """The moments of one thread's training loop."""

    def __init__(
        self,
        gpus: Gpus,
        thread: int,
        write: Callable[[int, Sequence[Arrival], int, int], None] = write_arrivals,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        """`thread`: number of the thread; `write`: see :func:`aiobs.recorder.write_arrivals`."""
        self._gpus, self._thread, self._write, self._clock = gpus, thread, write, clock
        self._here = gpus.here
        self._anchors = Anchors(gpus, clock)
        self._lanes: dict[Place, Lane] = {}
        self._pools: dict[int, list[Event]] = {}
        self._stretch: Stretch | None = None
        self._turn: list[Stretch] = []
        self._turns: deque[list[Stretch]] = deque()
        self._count = 0
        self._last_ns = 0
        self._said = False

    def mark(self, at_ns: int) -> None:
        """It is `at_ns` (monotonic): note where the GPU's queue ends. A moment that is past already is passed over."""
        if at_ns <= self._last_ns:
            return
        try:
            place = self._here()
            if place is None:
                return
            stretch = self._stretch
            if stretch is None or stretch.lane.place is not place or at_ns >= stretch.lane.due_ns:
                stretch = self._begin(place, at_ns)
            lane = stretch.lane
            pool = lane.pool
            event = pool.pop() if pool else self._gpus.event()
            event.record(place.stream)
            lane.newest = event
            self._last_ns = at_ns
            stretch.moments.append(at_ns)
            stretch.events.append(event)
            self._count += 1
            if self._count >= TURN_MOMENTS:
                self.settle()
        except Exception as error:
            self._give_up()
            swallow(PLACE, error)

    def _begin(self, place: Place, now: int) -> Stretch:
        """The stretch for moments in this place, with its anchor looked after."""
        lane = self._lanes.get(place)
        if lane is None:
            if len(self._lanes) >= LANES_LIMIT:
                self._lanes.clear()
            pool = self._pools.setdefault(place.device, [])
            lane = self._lanes[place] = Lane(place, pool, self._anchors.first(place))
        if now >= lane.due_ns:
            lane.anchor, lane.due_ns = self._anchors.renew(place, now, lane.newest)
        found = self._stretch
        if found is None or found.lane is not lane or found.anchor is not lane.anchor:
            found = self._stretch = Stretch(lane)
            self._turn.append(found)
        return found

    def skip(self, until_ns: int) -> None:
        """Moments up to `until_ns` were not noted when they were there, and are not to be noted late."""
        self._last_ns = max(self._last_ns, until_ns)

    def settle(self) -> None:
        """A step has ended: write down what the GPU has reached meanwhile."""
        try:
            self._settle(TURNS_AT_ONCE)
        except Exception as error:
            self._give_up()
            swallow(PLACE, error)

    def _settle(self, most: int) -> None:
        if not self._said:
            self._said = True
            self._write(self._thread, (), 0, 0)
        if self._count:
            self._turns.append([stretch for stretch in self._turn if stretch.moments])
            self._turn, self._stretch, self._count = [], None, 0
        if self._turns and not self._gpus.capturing():
            while most and self._turns and _reached(self._turns[0]):
                self._tell(self._turns.popleft())
                most -= 1
        while len(self._turns) > TURNS_LIMIT:
            self._drop(self._turns.popleft())

    def finish(self) -> None:
        """Nothing more will come: write what the GPU has reached, give up the rest."""
        try:
            self._settle(TURNS_LIMIT)
            while self._turns:
                self._drop(self._turns.popleft())
        except Exception as error:
            self._give_up()
            swallow(PLACE, error)

    def _give_up(self) -> None:
        """The GPU does not answer as it should, be it for an error of the program's own, which the program then gets
        to see at its next call: no further moments."""
        self._last_ns = NEVER
        self._turn, self._turns, self._stretch, self._count = [], deque(), None, 0

    def _tell(self, turn: list[Stretch]) -> None:
        now = self._clock()
        arrivals: list[Arrival] = []
        for stretch in turn:
            lane, events = stretch.lane, stretch.events
            reached = stretch.anchor.place(stretch.moments, events, now)
            arrivals += zip(stretch.moments, reached, repeat(lane.place.device))
            if self._anchors.move(lane.place.device, events[-1], reached[-1]):
                events.pop()
            if len(lane.pool) < POOL_LIMIT:
                lane.pool += events
        self._write(self._thread, arrivals, arrivals[-1][0], 0)

    def _drop(self, turn: list[Stretch]) -> None:
        # Their events are still in some queue: they are not used again.
        self._write(self._thread, (), turn[-1].moments[-1], sum(len(stretch.moments) for stretch in turn))


def _reached(turn: list[Stretch]) -> bool:
    """Whether the GPU has passed all of them: in one stream the last one tells."""
    if len(turn) == 1:
        return turn[0].events[-1].query()
    last = {stretch.lane: stretch.events[-1] for stretch in turn}
    return all(event.query() for event in last.values())
