"""What a GPU did during a step: the times at which it reached the boundaries of the step's phases.

A process notes a *moment* at each boundary, on its own clock and as an event in the GPU's stream. The GPU
*arrives* there once it has done all that was queued before. Both are on one clock here, and from the two alone,
for each stretch between two moments of a step:

- arrived late at its end: the GPU still had work then, so it was busy all along;
- arrived in time: it was busy until it reached the stretch's begin, and had run out of work for the rest. That rest
  is *input* where the program was waiting for its data, else *launch*: the GPU waits for the program to tell it
  what to do.

What is neither is *compute*: the GPU had work in hand. The step is bound by what most of its time went to. Where a
program waits for the GPU in the middle of a stretch (``loss.item()`` within forward, say), what the GPU did in that
stretch counts as launch: nothing tells it apart from slow launching.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from itertools import pairwise
from typing import Any

from aiobs import names
from aiobs.agent.metrics import Metrics
from aiobs.agent.plans import TIME_LIMIT
from aiobs.agent.steps import Step
from aiobs.agent.untrusted import DamagedError
from aiobs.recorder import layout

LATE_NS = 50_000
"""An arrival later than this is late: what a clock set anew once a second and an empty queue can add stays below."""
LATE_SHARE = 0.2
"""And later than this share of the stretch: the last kernels of a stretch end a little after their launch, and work
that takes longer than its launching piles up to a multiple of it."""
COVERED = 0.5
"""Share of a step that must lie between its first and last moment, else nothing is said of what bound it."""
MOMENTS_LIMIT = 8192
"""Moments remembered for each thread: more than the recent steps have."""
THREADS_LIMIT = 64
EXPECTED_LIMIT = 64
"""Steps whose arrivals are awaited for the metrics."""
WAIT_NS = 2_000_000_000
"""A step that is to be exported waits so long for its arrivals."""
WAITING_LIMIT = 256


class _Thread:
    def __init__(self) -> None:
        self.moments: list[int] = []
        self.arrived: list[tuple[int, int]] = []
        self.until = 0

    def add(self, moment: int, arrived: int, device: int) -> None:
        if self.moments and moment <= self.moments[-1]:
            return
        self.moments.append(moment)
        self.arrived.append((arrived, device))
        if len(self.moments) > MOMENTS_LIMIT:
            half = MOMENTS_LIMIT // 2
            del self.moments[:half], self.arrived[:half]

    def at(self, moment: int) -> tuple[int, int] | None:
        index = bisect_left(self.moments, moment)
        found = index < len(self.moments) and self.moments[index] == moment
        return self.arrived[index] if found else None

    def within(self, start: int, end: int) -> list[tuple[int, int]]:
        first, last = bisect_left(self.moments, start), bisect_right(self.moments, end)
        return [(moment, at) for moment, (at, _) in zip(self.moments[first:last], self.arrived[first:last], strict=True)]  # fmt: skip


class Arrivals:
    """The arrivals of one process, and the steps that wait for theirs."""

    def __init__(self) -> None:
        self._threads: dict[int, _Thread] = {}
        self._expected: deque[Step] = deque(maxlen=EXPECTED_LIMIT)
        self._waiting: OrderedDict[tuple[int, int], tuple[Step, int]] = OrderedDict()

    # -- what comes in -------------------------------------------------------------------------------------
    def expect(self, step: Step) -> None:
        """A step has ended, kept or not; its arrivals are to come."""
        if step.thread in self._threads:
            self._expected.append(step)

    def take(self, thread: int, until: int, payload: bytes) -> list[Step]:
        """The content of an ARRIVALS record; returns the steps that have all of theirs now, and have been told so.

        Raises:
            DamagedError: it cannot be one.
        """
        if len(payload) % layout.ARRIVAL.size:
            raise DamagedError("arrivals cut short")
        found = list(layout.ARRIVAL.iter_unpack(payload))
        if any(moment >= TIME_LIMIT or arrived >= TIME_LIMIT for moment, arrived, _ in found):
            raise DamagedError("an arrival out of time")
        if thread not in self._threads and len(self._threads) >= THREADS_LIMIT:
            return []
        known = self._threads.setdefault(thread, _Thread())
        for moment, arrived, device in found:
            known.add(moment, max(moment, arrived), device)
        known.until = max(known.until, until)
        complete = []
        for _ in range(len(self._expected)):
            step = self._expected.popleft()
            if step.thread == thread and step.end <= known.until:
                self.tell(step)
                complete.append(step)
            else:
                self._expected.append(step)
        return complete

    # -- steps that wait -----------------------------------------------------------------------------------
    def detain(self, step: Step, now: int) -> bool:
        """Whether `step`, ready to be exported, has to wait for arrivals; it is then given back by `released`."""
        known = self._threads.get(step.thread)
        if known is None or step.truncated or known.until >= step.end or len(self._waiting) >= WAITING_LIMIT:
            return False
        self._waiting[step.thread, step.start] = step, now
        return True

    def released(self, now: int | None) -> list[Step]:
        """The steps whose arrivals are there, or that have waited long enough; all of them where `now` is None."""
        found = [
            key
            for key, (step, since) in self._waiting.items()
            if now is None or now - since >= WAIT_NS or self._threads[step.thread].until >= step.end
        ]
        return [self._waiting.pop(key)[0] for key in found]

    # -- what they say -------------------------------------------------------------------------------------
    def tell(self, step: Step) -> None:
        """Put on `step` and its phases what their arrivals say."""
        known = self._threads.get(step.thread)
        if known is None:
            return
        for phase in step.phases:
            begin, end = known.at(phase.start), known.at(phase.end)
            if begin is not None and end is not None and begin[1] == end[1] and not phase.open:
                phase.gpu_s = max(0, end[0] - begin[0]) / 1e9
        waits = [(it.start, it.end) for it in step.phases if it.name == names.PHASE_DATA]
        step.attributes.update(bound(known.within(step.start, step.end), waits, step.end - step.start))

    # -- across the agent's death --------------------------------------------------------------------------
    def snapshot(self, since: int) -> dict[str, Any]:
        """JSON-able state, of moments from `since` on; the steps that wait are in `waiting`."""
        since = min([since, *(step.start for step, _ in self._waiting.values())])
        threads = []
        for number, known in self._threads.items():
            first = bisect_left(known.moments, since)
            arrivals = zip(known.moments[first:], known.arrived[first:], strict=True)
            threads.append([number, known.until, [[moment, *arrived] for moment, arrived in arrivals]])
        return {"threads": threads}

    def restore(self, state: dict[str, Any] | None, waiting: list[Step], now: int) -> None:
        """Take over what `snapshot` gave, and the steps that were `waiting`."""
        for number, until, arrivals in state["threads"] if state else ():
            known = self._threads[number] = _Thread()
            known.until = until
            for moment, arrived, device in arrivals:
                known.add(moment, arrived, device)
        for step in waiting:
            self._threads.setdefault(step.thread, _Thread())
            self._waiting[step.thread, step.start] = step, now
            self.expect(step)

    def waiting(self) -> list[Step]:
        """The steps that wait."""
        return [step for step, _ in self._waiting.values()]


def see_device_time(metrics: Metrics, step: Step) -> None:
    """Count in what the GPU did in a step, kept or not."""
    totals: dict[str, float] = {}
    for phase in step.phases:
        if phase.gpu_s is not None:
            totals[phase.name] = totals.get(phase.name, 0.0) + phase.gpu_s
    for name, seconds in totals.items():
        metrics.observe(names.TRAIN_PHASE_GPU_DURATION, seconds, ((names.PHASE, name),))
    verdict = step.attributes.get(names.STEP_BOUND)
    if verdict:
        metrics.add(names.TRAIN_STEPS_BOUND, 1, ((names.STEP_BOUND, verdict),))


def bound(moments: list[tuple[int, int]], waits: list[tuple[int, int]], whole: int) -> dict[str, Any]:
    """What bound a step, as its attributes.

    Args:
        moments: of the step, ascending, each with the GPU's arrival.
        waits: begin and end of the step's waits for data.
        whole: its duration.
    """
    covered = moments[-1][0] - moments[0][0] if moments else 0
    if not covered or covered < COVERED * whole:
        return {}
    idle_input = idle_launch = 0
    for (begin, there), (end, done) in pairwise(moments):
        span = end - begin
        if done - end > max(LATE_NS, LATE_SHARE * span):
            continue
        idle = span - min(there - begin, span)
        if any(start <= begin and end <= stop for start, stop in waits):
            idle_input += idle
        else:
            idle_launch += idle
    shares = {"input": idle_input / covered, "launch": idle_launch / covered}
    busy = 1 - shares["input"] - shares["launch"]
    return {
        names.STEP_BOUND: max({"compute": busy, **shares}.items(), key=lambda item: item[1])[0],
        names.STEP_INPUT_SHARE: round(shares["input"], 4),
        names.STEP_LAUNCH_SHARE: round(shares["launch"], 4),
        names.GPU_BUSY: round(max(0.0, busy), 4),
    }
