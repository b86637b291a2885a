"""The hot path of training steps in pure Python: begin and end of steps and phases; ``native/`` holds the same in C."""

from __future__ import annotations

from struct import Struct
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.propagation import Context
from aiobs.recorder import layout as at
from aiobs.recorder.compiled import core
from aiobs.recorder.flight import Flight
from aiobs.recorder.hot import thread
from aiobs.recorder.state import state
from aiobs.telemetry import Route

_entry = at.STEP_ENTRY.pack_into
_count = at.STEP_COUNT.pack_into
_time = Struct("<Q").pack_into
_P = TypeVar("_P", bound="PurePhase")


class PureSteps:
    """Begin and end of one thread's steps and of their phases.

    Attributes:
        open: whether a step is open; `number`: its number, or the next one's.
        start_ns: when its innermost open phase, or else it, began (monotonic).
        token: what OpenTelemetry held as current then.
        provisional_end_ns: when its last optimizer step so far ended, 0 before the first.
        explicit: the user marks steps with :func:`aiobs.step`; nobody else may close or begin them.
        claimed: the open step is one the user has marked.
    """

    __slots__ = (
        "_area", "_attributes", "_begun", "_context", "_count", "_flight", "_given", "_marked", "_serial", "_spare",
        "_stack", "_step_start", "claimed", "explicit", "number", "open", "provisional_end_ns", "start_ns", "token",
    )  # fmt: skip

    def __init__(self) -> None:
        self.open = False
        self.start_ns = self._step_start = 0
        self.token: object = None
        self._flight: Flight | None = None
        self._spare: bytearray | None = None
        """Memory in place of an area, where all areas are taken."""
        self._area = 0
        self._count = self._begun = 0
        self._given = 0
        """The token given last."""
        self._stack: list[tuple[int, int, object, int]] = []
        """Open phases: index, start, what OpenTelemetry held around it, token."""
        self.number = self._serial = 0
        self.provisional_end_ns = 0
        self._marked = 0
        """Entries there were at the provisional end."""
        self.explicit = self.claimed = False
        self._attributes: dict[str, Any] = {}
        self._context: tuple[int, Route, Context] | None = None

    def begin(self, number: int | None = None, start_ns: int | None = None) -> None:
        """Begin a step; an open one is closed first."""
        self._begin(number, start_ns)

    def mark_end(self, at_ns: int | None = None) -> None:
        """An optimizer step has just ended: the step may be over here, or go on with another optimizer."""
        flight = self._flight
        if self.open and flight is not None:
            self.provisional_end_ns = end = monotonic_ns() if at_ns is None else at_ns
            self._marked = self._count
            _time(self._spare or flight.mm, self._area + at.HEAD_END, end)

    def close(self, at_ns: int | None = None, *, skipped: bool = False) -> None:
        """End the step at `at_ns`, else at the provisional end, else now; write its record.

        Phases begun after that moment go into the next step, which is then open. With `skipped` the optimizer
        was skipped (AMP overflow).
        """
        self._close(at_ns, skipped)

    def enter(self, phase: int, start_ns: int | None = None) -> int:
        """Begin a phase (id from ``phase_id``); opens a step where none is open. Returns a token for `leave`,
        which stays good when the phase moves to the next step."""
        start = monotonic_ns() if start_ns is None else start_ns
        flight = self._flight
        if not self.open or flight is not state.flight:
            self.begin(None, start)
            if not self.open:
                return -1
            flight = self._flight
        index = self._count
        self._begun += 1
        if index >= at.AREA_ENTRIES or flight is None:
            return -1
        stack, area = self._stack, self._area
        memory = self._spare or flight.mm
        _entry(memory, area + 88 + index * 24, phase, stack[-1][0] if stack else 0xFFFF, thread.number, start, 0)
        self._count = index + 1
        _count(memory, area + 80, index + 1, 0, self._begun)
        token = self._given = self._given + 1
        stack.append((index, start, self.token, token))
        self.start_ns = start
        if state.foreign is not None:
            self.token = state.foreign()[0]
        return token

    def leave(self, token: int, end_ns: int | None = None) -> None:
        """End the phase that `enter` gave this token for, now or at `end_ns`; a token of an earlier step is ignored."""
        end = monotonic_ns() if end_ns is None else end_ns
        stack, flight = self._stack, self._flight
        if not stack or not self.open or flight is None:
            return
        if stack[-1][3] != token and all(entry[3] != token for entry in stack):
            return
        memory, ends = self._spare or flight.mm, self._area + 104
        while True:
            index, _start, self.token, own = stack.pop()
            _time(memory, ends + index * 24, end)
            if own == token:
                break
        self.start_ns = stack[-1][1] if stack else self._step_start

    def _adopt(self) -> None:
        """Be the steps of the calling thread."""
        thread.steps = self

    # Of the class on top; the compiled core calls them where something about the step is special:
    def _begin(self, number: int | None, start_ns: int | None) -> None:
        raise NotImplementedError

    def _close(self, at_ns: int | None, skipped: bool) -> None:
        raise NotImplementedError


class PurePhase:
    """A phase as a context manager."""

    __slots__ = ("_entered", "_generation", "_id", "name")

    name: str
    _id: int
    """Its id in the flight record of `_generation`; 0 where none is open."""
    _generation: int

    def __init__(self) -> None:
        self._entered: dict[int, list[tuple[Any, int]]] = {}
        """By thread, as several may be inside the same phase: its steps and their token, innermost last."""

    def __enter__(self: _P) -> _P:
        found, token, number = None, -1, thread.number
        try:
            if self._generation != state.generation:
                self._prepare()
            if self._id:
                found = thread.steps or self._steps()
                token = found.enter(self._id)
        except Exception as error:
            swallow("recorder.phase.begin", error)
        if number in self._entered:
            self._entered[number].append((found, token))
        else:
            self._entered[number] = [(found, token)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = self._entered.get(thread.number)
        if entered:
            found, token = entered.pop()
            if found is not None:
                found.leave(token)

    def _prepare(self) -> None:
        raise NotImplementedError

    def _steps(self) -> Any:
        raise NotImplementedError


if TYPE_CHECKING or core is None:
    HotSteps = PureSteps
    HotPhase = PurePhase
else:
    HotSteps = core.HotSteps
    HotPhase = core.HotPhase
