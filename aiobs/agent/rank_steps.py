"""The training steps of one process, from their records to the decision whether their traces are kept.

The newest step is held back until the next one arrives or the process ends: what belongs to it may still come,
and only then is it known not to be the last. Steps nobody wanted stay for a while among the recent ones: another
rank of this host may yet have a reason to keep them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

from aiobs.agent.device_time import Arrivals, see_device_time
from aiobs.agent.frozen import freeze_event, freeze_row, freeze_step, thaw_event, thaw_row, thaw_step
from aiobs.agent.keep import FAILED, LOCAL, REQUESTED, SLOW, SlowRule, Wanted, rule
from aiobs.agent.metrics import Metrics
from aiobs.agent.step_metrics import see_step
from aiobs.agent.steps import Step, late_row, span_budget
from aiobs.clock import monotonic_ns
from aiobs.telemetry import Route, Row, SpanEvent

RECENT_STEPS = 64
ROWS_LIMIT = 20_000
"""Spans within undecided and recent steps that are kept in memory."""
HOLD_NS = 2_000_000_000
"""A step that is to be kept waits so long for what may still come, then it is exported."""


class Host(Protocol):
    """What the steps of one process need to know of the others on this host."""

    wanted: Wanted

    def series(self, route: Route, key: str, thread: int, number: int, *, ahead: bool = False) -> str:
        """What to add to the run id so that the ids of this count of steps are nobody else's; `ahead`: without
        noting that the step has been counted."""
        ...

    def keep_everywhere(self, trace: bytes, reason: str) -> None:
        """Keep that step on every rank of this host."""

    def emit(self, steps: RankSteps, step: Step) -> None:
        """Export a step that is kept."""

    def emit_row(self, steps: RankSteps, row: Row) -> None:
        """Export a span that ended after its step was exported."""


class RankSteps:
    """See the module's text.

    Attributes:
        key: names the process. `route`: its newest route.
        left_out: spans within steps that were not kept.
        overflow: spans given up because there were more than the limit allows.
        counted: it has taken steps.
    """

    def __init__(self, key: str, route: Route, metrics: Metrics, host: Host) -> None:
        self.key = key
        self.route = route
        self.metrics = metrics
        self._host = host
        self._slow = SlowRule()
        self._arrivals = Arrivals()
        self._newest: dict[int, Step] = {}
        self._arrived: dict[int, int] = {}
        self._recent: OrderedDict[bytes, Step] = OrderedDict()
        self._said: OrderedDict[bytes, Step] = OrderedDict()
        self._rows: dict[bytes, list[Row]] = {}
        self._events: dict[bytes, list[tuple[bytes, SpanEvent]]] = {}
        self._scalars: dict[int, dict[str, Any]] = {}
        self._dropped: dict[bytes, int] = {}
        self._count = 0
        self.left_out = 0
        self.overflow = 0
        self.counted = False

    # -- what comes in -------------------------------------------------------------------------------------
    def span(self, row: Row, start: int) -> None:
        """A finished span within a step (`start` monotonic ns)."""
        step = self._step_of(row[1], start)
        if step is not None and step.fate == "kept":
            self._host.emit_row(self, late_row(step, row))
            return
        if step is not None and step.fate == "gone":
            self.left_out += 1
            return
        rows = self._rows.setdefault(row[1], []) if step is None else step.rows
        if len(rows) >= span_budget(self.route):
            self.left_out += 1
            if step is None:
                self._dropped[row[1]] = self._dropped.get(row[1], 0) + 1
            else:
                step.dropped += 1
        elif self._count >= ROWS_LIMIT and not self._make_room():
            self.overflow += 1
        else:
            self._count += 1
            rows.append(row)

    def truncated(self, row: Row, start: int) -> list[Row]:
        """A span that was open within a step when the process died: it is exported in any case, with its step.

        Returns:
            the span, where its step is forgotten.
        """
        step = self._step_of(row[1], start)
        if step is None:
            self._rows.setdefault(row[1], []).append(row)
        elif step.fate == "gone":
            return [row]
        elif step.fate == "kept":
            self._host.emit_row(self, late_row(step, row))
        else:
            step.rows.append(row)
            self._count += 1
            self.recall(step.trace, FAILED)
        return []

    def event(self, trace: bytes, span: bytes, event: SpanEvent, start: int) -> None:
        """An event of a span, phase or step within a step."""
        step = self._step_of(trace, start)
        if step is not None and step.fate in ("held", "recent", "due"):
            step.events.append((span, event))
        elif step is None and self._count < ROWS_LIMIT:
            self._count += 1
            self._events.setdefault(trace, []).append((span, event))
        else:
            self.overflow += 1

    def scalars(self, number: int, values: dict[str, Any]) -> None:
        """Values logged in step `number`."""
        for step in self._newest.values():
            if step.number == number:
                step.attributes.update(values)
                return
        if len(self._scalars) < RECENT_STEPS:
            self._scalars.setdefault(number, {}).update(values)

    def _step_of(self, trace: bytes, start: int) -> Step | None:
        step = self._said.get(trace)
        return step if step is not None and start < step.end else None

    def step(self, step: Step, now: int, *, finished: bool = True) -> None:
        """A step is over (`finished`), or was when its process died."""
        self.counted = True
        before = self._newest.pop(step.thread, None)
        if before is not None:
            self.settle(before)
        step.identify(self.route, self._host.series(self.route, self.key, step.thread, step.number))
        step.rows += self._rows.pop(step.said_trace, [])
        step.dropped += self._dropped.pop(step.said_trace, 0)
        events = self._events.pop(step.said_trace, [])
        self._count -= len(events)
        step.events += events
        step.attributes = {**self._scalars.pop(step.number, {}), **step.attributes}
        for number in [number for number in self._scalars if number < step.number]:
            del self._scalars[number]
        if step.failed and not step.reason:
            step.reason = FAILED
        if finished:
            see_step(self.metrics, step)
            self._arrivals.expect(step)
            if self._slow.see(step.end - step.start, self.route.keep_slow_ratio) and not step.reason:
                step.reason = SLOW
        self._said[step.said_trace] = step
        while len(self._said) > 2 * RECENT_STEPS:
            self._said.popitem(last=False)
        if len(self._newest) >= RECENT_STEPS:  # more training threads than anybody has
            self.settle(self._newest.pop(next(iter(self._newest))))
        self._newest[step.thread] = step
        self._arrived[step.thread] = now

    def foretell(self, step: Step) -> None:
        """A step is still open and hangs: compute its ids, and keep it whenever it ends."""
        step.identify(self.route, self._host.series(self.route, self.key, step.thread, step.number, ahead=True))
        if not self._reason(step):
            self._host.wanted.want(step.trace, SLOW)

    # -- the decision --------------------------------------------------------------------------------------
    def _reason(self, step: Step) -> str:
        if step.reason == FAILED:
            return FAILED
        wanted = self._host.wanted
        by_number = rule(step.number, self.route) or (REQUESTED if wanted.requested(step.number) else "")
        return by_number or step.reason or wanted.reason(step.trace)

    def settle(self, step: Step, otherwise: str = "") -> None:
        """Decide about a step that nothing more is expected of; `otherwise`: the reason where there is no other."""
        if step.fate != "held":
            return
        reason = self._reason(step) or otherwise
        if reason:
            self._keep(step, reason)
            return
        step.fate = "recent"
        self._recent[step.trace] = step
        if len(self._recent) > RECENT_STEPS:
            self._forget()

    def _keep(self, step: Step, reason: str) -> None:
        if step.fate in ("due", "kept", "gone"):
            return
        step.reason, step.fate = reason, "due"
        if not self._arrivals.detain(step, monotonic_ns()):
            self._emit(step)
        if reason in LOCAL or reason == REQUESTED:
            self._host.keep_everywhere(step.trace, reason)

    def _emit(self, step: Step) -> None:
        self._count -= len(step.rows)
        step.fate = "kept"
        self._arrivals.tell(step)
        self._host.emit(self, step)

    def arrivals(self, thread: int, until: int, payload: bytes) -> None:
        """When a GPU reached moments of that thread; `until` (monotonic ns) no others are to come. Raises DamagedError."""
        for step in self._arrivals.take(thread, until, payload):
            see_device_time(self.metrics, step)

    def recall(self, trace: bytes, reason: str) -> None:
        """Another rank has a reason to keep this step."""
        step = self._recent.pop(trace, None)
        if step is not None:
            self._keep(step, reason)

    def recall_numbers(self, first: int, last: int) -> None:
        """Steps were asked for by number; keep what is left of them."""
        for step in [step for step in self._recent.values() if first <= step.number <= last]:
            self.recall(step.trace, REQUESTED)

    def release(self, now: int) -> None:
        """Export held steps that are to be kept anyway and have waited long enough."""
        for step in self._arrivals.released(now):
            self._emit(step)
        for thread, step in list(self._newest.items()):
            if step.fate == "held" and now - self._arrived.get(thread, now) >= HOLD_NS:
                reason = self._reason(step)
                if reason:
                    self._keep(step, reason)

    def end(self, last: str) -> list[Row]:
        """The process has ended: decide about everything; `last` is the reason of steps that have no other.

        Returns:
            finished spans whose step never ended.
        """
        for thread in list(self._newest):
            step = self._newest.pop(thread)
            self.settle(step, last)
        for step in self._arrivals.released(None):
            self._emit(step)
        leftover = [row for rows in self._rows.values() for row in rows]
        self._rows.clear()
        self._events.clear()
        return leftover

    def gone(self) -> None:
        """Nobody can want the recent steps any more."""
        while self._recent:
            self._forget()

    def _forget(self) -> None:
        _, step = self._recent.popitem(last=False)
        self._count -= len(step.rows)
        self.left_out += len(step.rows)
        step.fate = "gone"
        step.rows, step.events, step.phases = [], [], []

    def _make_room(self) -> bool:
        while self._recent and self._count >= ROWS_LIMIT:
            self._forget()
        return self._count < ROWS_LIMIT

    def has_recent(self) -> bool:
        """Whether there are recent steps that could still be kept."""
        return bool(self._recent)

    def median_ns(self) -> int:
        """Running median of the steps' durations; 0 where there are none."""
        return self._slow.median_ns()

    # -- across the agent's death --------------------------------------------------------------------------
    def snapshot(self) -> dict[str, Any]:
        """JSON-able state: what is undecided. The recent steps are left out: they live in memory only."""
        return {
            "slow": self._slow.snapshot(),
            "newest": [freeze_step(step) for step in self._newest.values() if step.fate == "held"],
            "due": [freeze_step(step) for step in self._arrivals.waiting()],
            "arrivals": self._arrivals.snapshot(min([step.start for step in self._newest.values()], default=0)),
            "rows": [freeze_row(row) for rows in self._rows.values() for row in rows],
            "events": [
                [trace.hex(), span.hex(), freeze_event(event)]
                for trace, found in self._events.items()
                for span, event in found
            ],
            "scalars": [[number, values] for number, values in self._scalars.items()],
            "dropped": [[trace.hex(), count] for trace, count in self._dropped.items()],
            "counted": self.counted,
            "left_out": self.left_out,
            "overflow": self.overflow,
        }

    def restore(self, state: dict[str, Any], now: int) -> None:
        """Take over what `snapshot` gave."""
        self._slow.restore(state["slow"])
        for frozen in state["newest"]:
            step = thaw_step(frozen)
            self._newest[step.thread] = self._said[step.said_trace] = step
            self._arrived[step.thread] = now
            self._count += len(step.rows)
        due = [thaw_step(frozen) for frozen in state.get("due", ())]  # an older agent had none
        for step in due:
            step.fate = "due"
            self._said[step.said_trace] = step
            self._count += len(step.rows)
        self._arrivals.restore(state.get("arrivals"), due, now)
        for step in self._newest.values():
            self._arrivals.expect(step)
        for frozen in state["rows"]:
            row = thaw_row(frozen)
            self._rows.setdefault(row[1], []).append(row)
            self._count += 1
        for trace, span, event in state["events"]:
            self._events.setdefault(bytes.fromhex(trace), []).append((bytes.fromhex(span), thaw_event(event)))
        self._dropped = {bytes.fromhex(trace): count for trace, count in state["dropped"]}
        self._scalars = {int(number): values for number, values in state["scalars"]}
        self.left_out, self.overflow, self.counted = state["left_out"], state["overflow"], state["counted"]
