"""The armed points of this process: read when the control word says so, asked at each hit."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiobs.chaos.points import functions
from aiobs.chaos.points.acting import Action, held, held_async
from aiobs.chaos.points.answer import Answer
from aiobs.chaos.points.corrupting import copy_of
from aiobs.chaos.points.files import ANSWER, Order, orders_of, read_order
from aiobs.chaos.points.grammar import parse
from aiobs.chaos.points.marking import mark
from aiobs.chaos.points.program import Program
from aiobs.chaos.points.scope import Scope
from aiobs.clock import monotonic_ns
from aiobs.errors import AiobsError
from aiobs.guard import say_once, swallow
from aiobs.recorder import layout as at
from aiobs.recorder.state import on_new_flight, state


class Armed:
    """One order as it is being carried out.

    Attributes:
        previous: copy of the value before, for ``stale``.
    """

    def __init__(self, path: Path, order: Order) -> None:
        self.order = order
        self.answer = Answer(path.with_suffix(ANSWER))
        self.previous: Any = None
        self.usable = False
        try:
            terms = parse(order.what)
            for term in terms:
                Action.prepare(term)
            self.program = Program(terms, order.seed)
            self.remembers = any(term.task == "stale" for term in terms)
            self.scope = Scope(order.key, order.run) if order.only else None
            self.usable = True
        except (AiobsError, OSError) as error:
            self.refuse(str(error))

    def refuse(self, reason: str) -> None:
        """Say why it cannot act."""
        self.answer.note(reason)
        say_once(f"points.{self.order.id}", "aiobs: point %s is not armed: %s", self.order.point, reason)

    def live(self) -> bool:
        """Whether it may act now."""
        return self.usable and monotonic_ns() < self.order.expires_ns

    def hit(self, value: Any) -> Action | None:
        """The point is reached."""
        if not self.live() or (self.scope is not None and not self.scope.covers()):
            return None
        term = self.program.hit(value, remembered=self.previous is not None)
        self.answer.reached += 1
        action = None if term is None else Action(self, term)
        if action is not None and term is not None:
            reason = action.unfit(value)
            if reason:
                self.refuse(reason)
                action = None
            elif term.task not in ("nan", "bitflip", "stale") or value is not None:
                self.count()
        self.answer.write()
        return action

    def count(self) -> None:
        """It acts, or is about to."""
        self.answer.acted += 1
        self.answer.write()

    def remember(self, value: Any) -> None:
        """Keep `value` for the next hit."""
        if self.remembers:
            self.previous = (copy_of(value),)


_lock = threading.RLock()
_table: dict[str, list[Armed]] = {}
_generation = -1


def look() -> None:
    """Read the orders again, if they have changed or one has come to its end. Never raises."""
    global _generation
    flight = state.flight
    if flight is None:
        return
    try:
        generation = _generation_of(flight.mm)
        if generation != _generation or any(not it.live() and it.usable for found in _table.values() for it in found):
            with _lock:
                _read(flight, generation)
                _generation = generation
    except Exception as error:
        swallow("points.look", error)


def _generation_of(memory: Any) -> int:
    return int.from_bytes(memory[at.POINTS_GENERATION : at.POINTS_GENERATION + 4], "little")


def _read(flight: Any, generation: int) -> None:
    before = {it.order.id + it.order.point: it for found in _table.values() for it in found}
    now: dict[str, list[Armed]] = {}
    for path in orders_of(flight.path):
        try:
            order = read_order(path)
            if order.expires_ns <= monotonic_ns():
                continue
            armed = before.pop(order.id + order.point, None)
            if armed is None:
                armed = Armed(path, order)
            armed.order = order
        except (AiobsError, OSError) as error:
            with suppress(OSError):
                Answer(path.with_suffix(ANSWER)).note(str(error))
            say_once(f"points.{path.name}", "aiobs: %s ignored: %s", path.name, error)
            continue
        now.setdefault(order.point, []).append(armed)
    _table.update(now)
    for name in _table.keys() - now.keys():
        del _table[name]
    for armed in before.values():
        armed.usable = False
        if not armed.answer.inside:
            armed.answer.close()
    functions.follow({name: found[0].refuse for name, found in _table.items() if ":" in name}, decide, remember)
    if not now:
        flight.mm[at.POINTS_ARMED] = 0
        if _generation_of(flight.mm) != generation:
            flight.mm[at.POINTS_ARMED] = 1  # somebody armed in between


def decide(name: str, value: Any = None) -> Action | None:
    """The point `name` is reached: what it does now, None for nothing. Never raises."""
    try:
        look()
        found = _table.get(name)
        if not found:
            return None
        with _lock:
            action = next(filter(None, (armed.hit(value) for armed in found)), None)
        if action is not None and not action.on_result(value):
            mark(action)
        return action
    except Exception as error:
        swallow("points.decide", error)
        return None


def remember(name: str, value: Any) -> None:
    """A value passed the point `name`. Never raises."""
    try:
        with _lock:
            for armed in _table.get(name, ()):
                armed.remember(value)
    except Exception as error:
        swallow("points.remember", error)


def changed(action: Action, value: Any) -> Any:
    """What `action` makes of the result of a function. Never raises."""
    try:
        with _lock:
            reason = action.unfit(value)
            if reason:
                action.armed.refuse(reason)
                return value
            action.armed.count()
        mark(action)
        return action.change(value)
    except Exception as error:
        swallow("points.change", error)
        return value


def reached(name: str, value: Any) -> Any:
    """What :func:`aiobs.point` does where something is armed."""
    action = decide(name, value)
    if action is not None:
        held(action)
    return _passed(name, action, value)


async def reached_async(name: str, value: Any) -> Any:
    """The same in a coroutine."""
    action = decide(name, value)
    if action is not None:
        await held_async(action)
    return _passed(name, action, value)


def _passed(name: str, action: Action | None, value: Any) -> Any:
    result = value
    if action is not None:
        try:
            result = action.change(value)
        except Exception as error:
            swallow("points.change", error)
    remember(name, value)
    return result


def standing(armed: Armed) -> bool:
    """Whether what `armed` holds must go on being held."""
    look()
    return armed.live() and state.flight is not None


def held_inside(armed: Armed, more: int) -> None:
    """A call begins (1) or ends (-1) to be held."""
    with _lock:
        armed.answer.inside += more
        armed.answer.write()
        if not armed.usable and not armed.answer.inside:
            armed.answer.close()


def _forget() -> None:
    """Another flight record, or none (closed, forked): its orders are not ours."""
    global _generation, _lock
    _lock = threading.RLock()
    _table.clear()
    _generation = -1
    functions.follow({}, decide, remember)


on_new_flight(_forget)
