"""Who drew the energy that one GPU's counter counted.

At each moment the GPU's power is divided equally among the processes that have a unit open on it, and what a
process gets equally among its open units. So all open units of a process draw alike, and one rising curve for
each process says it all: what a unit drew is by how much the curve rose while it was open, and the same holds for
a span within it. Where no unit is open, the processes on the GPU get it equally, outside their units; where there
is no process, nobody does. Nothing is lost or counted twice: units + outside + unattributed = what was counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiobs.agent.curve import Curve

KEPT_POINTS = 32
"""Points of a curve that the journal keeps: spans that began before them get their part by interpolation."""
Interval = tuple[int, "int | None"]
"""Begin and end, monotonic ns; None: it goes on."""


@dataclass(frozen=True)
class Presence:
    """One process on the GPU.

    Attributes:
        times: from when until when it is there.
        units: intervals in which it had a unit open; any that are over may be left out once settled.
    """

    times: Interval
    units: Sequence[Interval] = ()


@dataclass
class Account:
    """What one process drew, joules.

    Attributes:
        unit: what a unit would have drawn that was open all the time.
        inside: what its units drew together. `outside`: what it got while no unit was open on the GPU.
    """

    unit: Curve = field(default_factory=Curve)
    inside: float = 0.0
    outside: float = 0.0
    drawn: float = 0.0
    """`unit` as of now."""


class Sharing:
    """The accounts of one GPU.

    Attributes:
        until_ns: settled up to this moment (monotonic ns), None before the first reading.
        began_ns: the first reading. A unit that began before it is none: nobody can tell what it drew.
        accounts: by process. `unattributed`: joules nobody was there for.
    """

    def __init__(self) -> None:
        self.until_ns: int | None = None
        self.began_ns = 0
        self.accounts: dict[str, Account] = {}
        self.unattributed = 0.0

    def settle(self, counted: Curve, until_ns: int, present: Mapping[str, Presence]) -> None:
        """Share what was `counted` (joules, rising) since the last time up to `until_ns`.

        Args:
            present: all processes on the GPU, with all units that began before `until_ns` and ended after the
                moment settled so far.
        """
        begin = self.until_ns
        if begin is None:
            self.until_ns = self.began_ns = until_ns
            return
        if until_ns <= begin:
            return
        self.until_ns = until_ns
        changes = self._changes(begin, until_ns, present)
        changes += [(moment, "", 0, 0) for moment in counted.moments(begin, until_ns)]
        changes.append((until_ns, "", 0, 0))
        changes.sort()
        there: dict[str, int] = {}
        units: dict[str, int] = {}
        last, last_value = begin, counted.at(begin)
        for moment, process, arrived, opened in changes:
            if moment > last:
                value = counted.at(moment)
                self._share(last, moment, value - last_value, there, units)
                last, last_value = moment, value
            if arrived:
                _count(there, process, arrived)
            elif opened:
                _count(units, process, opened)

    def _changes(self, begin: int, end: int, present: Mapping[str, Presence]) -> list[tuple[int, str, int, int]]:
        """(moment, process, it came or went, a unit began or ended)."""
        found: list[tuple[int, str, int, int]] = []
        for process, presence in present.items():
            since, left = presence.times
            self.accounts.setdefault(process, Account())
            units = ((unit, 0, 1) for unit in presence.units if unit[0] >= self.began_ns)
            for (first, last), here, opened in [((since, left), 1, 0), *units]:
                first = max(first, since, begin)
                last = min(end if last is None else last, end if left is None else left, end)
                if first < last:
                    found.append((first, process, here, opened))
                    found.append((last, process, -here, -opened))
        return found

    def _share(self, begin: int, end: int, joules: float, there: dict[str, int], units: dict[str, int]) -> None:
        if units:
            part = joules / len(units)
            for process, open_units in units.items():
                account = self.accounts[process]
                if not account.unit.times or account.unit.times[-1] < begin:
                    account.unit.add(begin, account.drawn)
                account.inside += part
                account.drawn += part / open_units
                account.unit.add(end, account.drawn)
        elif there:
            for process in there:
                self.accounts[process].outside += joules / len(there)
        else:
            self.unattributed += joules

    def drawn(self, process: str, begin_ns: int, end_ns: int) -> float | None:
        """Joules that a unit of `process`, or a span within one, drew from `begin_ns` to `end_ns`.

        None where that is not known: it began before the first reading, or no unit was open.
        """
        account = self.accounts.get(process)
        if account is None or begin_ns < self.began_ns:
            return None
        return account.unit.between(begin_ns, end_ns) or None

    def forget(self, process: str) -> None:
        """Nobody will ask for this process any more."""
        self.accounts.pop(process, None)

    # -- across the agent's death --------------------------------------------------------------------------
    def snapshot(self, anchors: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """JSON-able state; `anchors`: moments by process at which something began that is not over yet."""
        accounts = {}
        for process, account in self.accounts.items():
            points = account.unit.newest(KEPT_POINTS)
            first = points[0][0] if points else 0
            early = sorted(moment for moment in anchors.get(process, ()) if moment < first)
            points[:0] = [[moment, account.unit.at(moment)] for moment in early]
            accounts[process] = [points, account.inside, account.outside, account.drawn]
        return {"until": self.until_ns, "began": self.began_ns, "unattributed": self.unattributed, "accounts": accounts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `snapshot` gave."""
        self.until_ns, self.began_ns, self.unattributed = state["until"], state["began"], state["unattributed"]
        for process, (points, inside, outside, drawn) in state["accounts"].items():
            account = self.accounts[process] = Account(inside=inside, outside=outside, drawn=drawn)
            for moment, value in points:
                account.unit.add(int(moment), value)


def _count(counts: dict[str, int], process: str, change: int) -> None:
    counts[process] = counts.get(process, 0) + change
    if not counts[process]:
        del counts[process]
