"""Which steps' traces are kept: rules on shared facts, and local reasons.

Rules on the step's number keep the same steps on every rank without a word between them. A local reason (slow,
failed, last) is one rank's; the agent applies it to all ranks of its host, for steps of the recent past too.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque

from aiobs.telemetry import Route

FIRST, EVERY, REQUESTED, SLOW, LAST, FAILED = "first", "every", "requested", "slow", "last", "failed"
LOCAL = frozenset({SLOW, LAST, FAILED})
"""Reasons that other hosts do not know of."""

MEDIAN_OF = 101
"""Steps the running median is taken over."""
MEDIAN_AFTER = 8
"""Steps that must have been seen before one can be called slow."""
SLOW_SHARE = 0.1
"""At most this share of steps is kept for being slow, else a run that gets slower and slower keeps them all."""
SLOW_BURST = 3.0
SLOW_RECORD = 1.5
"""A step so many times slower than the slowest kept so far is kept whatever the share: the outlier of a run must not
go missing because lesser ones came before it. As each raises the bar by that factor, there are few of them."""
WANTED_LIMIT = 1024
REQUESTS_LIMIT = 256


class SlowRule:
    """Slow against the running median of one rank's steps."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []
        self._credit = 1.0
        self._slowest_ns = 0

    def see(self, duration_ns: int, ratio: float) -> bool:
        """Whether a step of this duration is slow among those before it; counts it in."""
        seen = len(self._sorted)
        slow = seen >= MEDIAN_AFTER and duration_ns > ratio * self._sorted[seen // 2]
        insort(self._sorted, duration_ns)
        self._recent.append(duration_ns)
        if seen >= MEDIAN_OF:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._credit = min(SLOW_BURST, self._credit + SLOW_SHARE)
        if not slow or (self._credit < 1.0 and duration_ns < SLOW_RECORD * self._slowest_ns):
            return False
        self._credit = max(0.0, self._credit - 1.0)
        self._slowest_ns = max(self._slowest_ns, duration_ns)
        return True

    def median_ns(self) -> int:
        """The running median; 0 before the first step."""
        return self._sorted[len(self._sorted) // 2] if self._sorted else 0

    def snapshot(self) -> list[object]:
        """JSON-able state."""
        return [list(self._recent), self._credit, self._slowest_ns]

    def restore(self, state: list[object]) -> None:
        """Take over what `snapshot` gave."""
        recent, credit, slowest = state
        self._recent = deque(recent)  # type: ignore[call-overload]
        self._sorted = sorted(self._recent)
        self._credit = float(credit)  # type: ignore[arg-type]
        self._slowest_ns = int(slowest)  # type: ignore[call-overload]


class Wanted:
    """Steps wanted whatever their rank: asked for by number, or kept by one rank for a reason of its own."""

    def __init__(self) -> None:
        self._traces: OrderedDict[bytes, str] = OrderedDict()
        self._requests: deque[tuple[int, int]] = deque(maxlen=REQUESTS_LIMIT)

    def request(self, first: int, last: int) -> None:
        """Keep the steps numbered `first` to `last`, both included."""
        self._requests.append((first, last))

    def want(self, trace: bytes, reason: str) -> None:
        """Keep the step with this trace id on every rank."""
        self._traces.setdefault(trace, reason)
        while len(self._traces) > WANTED_LIMIT:
            self._traces.popitem(last=False)

    def reason(self, trace: bytes) -> str:
        """Why one rank wants this step; "" where none does."""
        return self._traces.get(trace, "")

    def requested(self, number: int) -> bool:
        """Whether the step was asked for by number."""
        return any(first <= number <= last for first, last in self._requests)

    def snapshot(self) -> dict[str, object]:
        """JSON-able state."""
        recent = list(self._traces.items())[-64:]
        return {"traces": [[trace.hex(), reason] for trace, reason in recent], "requests": list(self._requests)}

    def restore(self, state: dict[str, list[list[object]]]) -> None:
        """Take over what `snapshot` gave."""
        for trace, reason in state["traces"]:
            self.want(bytes.fromhex(str(trace)), str(reason))
        for first, last in state["requests"]:
            self.request(int(first), int(last))  # type: ignore[call-overload]


def rule(number: int, route: Route) -> str:
    """The reason by which every rank keeps step `number`, or ""."""
    if number < route.keep_first:
        return FIRST
    if route.keep_every and number % route.keep_every == 0:
        return EVERY
    return ""
