"""What a point does, as text: ``after(3) 10% 2*sleep(50) -> raise(TimeoutError, "gone")``.

Terms are joined by ``->``; at each hit the first one that applies acts. A term is a task, after any of these::

    p%        with that probability
    n*        at most n times
    after(n)  not at the first n hits
    every(n)  only at every n-th of the hits
    at(n)     only where the point's value is that number (a step)

Tasks: ``off``, ``sleep(ms)`` or ``delay(ms)``, ``raise``, ``raise(Type)``, ``raise(Type, "message")``,
``return(JSON)``, ``hang``, ``kill`` or ``kill(SIGNAL)``, ``gil(ms)``, ``nan``, ``bitflip`` or ``bitflip(n)``,
``stale``, ``oom``, ``exit`` or ``exit(code)``.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from typing import Any

from aiobs.errors import PlanError

GIL_LIMIT_MS = 4000
"""Longest the GIL may be held at a hit: nothing can end that from outside."""
VALUES = frozenset({"return", "nan", "bitflip", "stale"})
"""Tasks that change the point's value."""
_CONDITIONS = ("after", "every", "at")
_WORD = re.compile(r"[a-z]+")
_PROBABILITY = re.compile(r"(\d+(?:\.\d+)?)%")
_COUNT = re.compile(r"(\d+)\*")
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*")
_WHOLE = re.compile(r"\s*(\d+)\s*")
_TYPE = re.compile(r"\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*")
_SIGNAL = re.compile(r"\s*([A-Z][A-Z0-9]*)\s*")


@dataclass(frozen=True)
class Term:
    """One term.

    Attributes:
        task: its name; ``delay`` is ``sleep``.
        arguments: milliseconds, bits, exit code; type name and message; a JSON value; a signal's number.
        probability: above 0, at most 1.
        count: most times it acts, None: no limit.
        after, every, at: see the module's text; `at` is None where there is no such condition.
    """

    task: str
    arguments: tuple[Any, ...] = ()
    probability: float = 1.0
    count: int | None = None
    after: int = 0
    every: int = 1
    at: int | None = None


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.here = text, 0

    def wrong(self, remedy: str, where: int | None = None) -> PlanError:
        position = self.here if where is None else where
        return PlanError("what", self.text, f"at position {position + 1}: {remedy}")

    def blank(self) -> None:
        while self.here < len(self.text) and self.text[self.here].isspace():
            self.here += 1

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.here)
        if found is None:
            return None
        self.here = found.end()
        return found[found.re.groups]

    def skip(self, word: str) -> bool:
        if self.text.startswith(word, self.here):
            self.here += len(word)
            return True
        return False

    def inside(self, pattern: re.Pattern[str], remedy: str) -> str:
        """The argument between parentheses, which must be there."""
        if not self.skip("("):
            raise self.wrong(remedy)
        found = self.match(pattern)
        if found is None:
            raise self.wrong(remedy)
        self.close()
        return found

    def close(self) -> None:
        self.blank()
        if not self.skip(")"):
            raise self.wrong("write ) here")

    def json(self, remedy: str) -> Any:
        self.blank()
        try:
            value, self.here = json.JSONDecoder().raw_decode(self.text, self.here)
        except ValueError:
            raise self.wrong(remedy) from None
        return value


def parse(text: str) -> tuple[Term, ...]:
    """The terms that `text` means.

    Raises:
        PlanError: it cannot be read; the message says where and what to write.
    """
    reader = _Reader(text)
    terms = []
    while True:
        terms.append(_term(reader))
        reader.blank()
        if reader.here == len(text):
            return tuple(terms)
        if not reader.skip("->"):
            raise reader.wrong("write -> and another task, or end here")


def _term(reader: _Reader) -> Term:
    conditions: dict[str, Any] = {}
    while True:
        reader.blank()
        began = reader.here
        if (found := reader.match(_PROBABILITY)) is not None:
            name, value = "probability", float(found) / 100
            if not 0 < value <= 1:
                raise reader.wrong("use a probability above 0% and at most 100%", began)
        elif (found := reader.match(_COUNT)) is not None:
            name, value = "count", int(found)
            if value < 1:
                raise reader.wrong("use at least 1*", began)
        else:
            word = reader.match(_WORD) or ""
            if word not in _CONDITIONS:
                return _task(reader, word, began, conditions)
            name, value = word, int(reader.inside(_WHOLE, f"write {word}(n) with a whole number"))
            if word == "every" and value < 1:
                raise reader.wrong("use every(n) with n at least 1", began)
        if name in conditions:
            raise reader.wrong(f"{name} is there twice; leave one out", began)
        conditions[name] = value


def _task(reader: _Reader, word: str, began: int, conditions: dict[str, Any]) -> Term:
    read = _TASKS.get(word)
    if read is None:
        raise reader.wrong(f"no such task; there are {', '.join(_TASKS)}", began)
    return Term("sleep" if word == "delay" else word, read(reader), **conditions)


def _none(reader: _Reader) -> tuple[Any, ...]:
    if reader.text.startswith("(", reader.here):
        raise reader.wrong("this task takes no argument; leave the parentheses out")
    return ()


def _milliseconds(reader: _Reader) -> tuple[Any, ...]:
    return (float(reader.inside(_NUMBER, "write the milliseconds in parentheses, such as sleep(50)")),)


def _gil(reader: _Reader) -> tuple[Any, ...]:
    began = reader.here
    (held,) = _milliseconds(reader)
    if held > GIL_LIMIT_MS:
        raise reader.wrong(f"hold the GIL at most {GIL_LIMIT_MS} ms; nothing can end it sooner", began)
    return (held,)


def _raise(reader: _Reader) -> tuple[Any, ...]:
    if not reader.skip("("):
        return "", "injected"
    name = reader.match(_TYPE)
    if name is None:
        raise reader.wrong("write the name of an exception, such as TimeoutError or package.module.Type")
    message = "injected"
    if reader.skip(","):
        remedy = 'write the message as a JSON text, such as "gone"'
        began = reader.here
        message = reader.json(remedy)
        if not isinstance(message, str):
            raise reader.wrong(remedy, began)
    reader.close()
    return name, message


def _return(reader: _Reader) -> tuple[Any, ...]:
    remedy = "write the value as JSON in parentheses, such as return(null)"
    if not reader.skip("("):
        raise reader.wrong(remedy)
    value = reader.json(remedy)
    reader.close()
    return (json.dumps(value),)


def _kill(reader: _Reader) -> tuple[Any, ...]:
    if not reader.text.startswith("(", reader.here):
        return (int(signal.SIGKILL),)
    began = reader.here
    name = reader.inside(_SIGNAL, "write a signal's name, such as kill(TERM)").removeprefix("SIG")
    try:
        return (int(signal.Signals[f"SIG{name}"]),)
    except KeyError:
        raise reader.wrong("there is no such signal; write for example KILL, TERM, SEGV or ABRT", began) from None


def _optional(default: int, most: int, remedy: str) -> Any:
    def read(reader: _Reader) -> tuple[Any, ...]:
        if not reader.text.startswith("(", reader.here):
            return (default,)
        began = reader.here
        value = int(reader.inside(_WHOLE, remedy))
        if not default <= value <= most:
            raise reader.wrong(remedy, began)
        return (value,)

    return read


_TASKS: dict[str, Any] = {
    "off": _none,
    "sleep": _milliseconds,
    "delay": _milliseconds,
    "raise": _raise,
    "return": _return,
    "hang": _none,
    "kill": _kill,
    "gil": _gil,
    "nan": _none,
    "bitflip": _optional(1, 1024, "write how many bits, 1 to 1024, such as bitflip(3)"),
    "stale": _none,
    "oom": _none,
    "exit": _optional(1, 255, "write the exit code, 1 to 255, such as exit(3)"),
}
