"""Who may not talk to whom: partitions between named nodes, by shape or spelled out.

A cut is a pair: what the first sends does not arrive at the second. In words: ``a,b|c`` keeps the two groups apart,
``a>b`` loses what a sends to b, ``;`` adds further cuts. Who is not named talks to everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random

from aiobs.errors import PlanError

Cut = tuple[str, str]


def cuts_of(shape: str, names: Sequence[str], node: str, random: Random) -> list[Cut]:
    """The cuts of a shape between these nodes, in order.

    Args:
        shape: a key of :data:`SHAPES`, or cuts in words.
        node: the one that stands apart, where the shape has one; "": `random` chooses.

    Raises:
        PlanError: too few nodes, a name that is not there, or words that cannot be read.
    """
    known = SHAPES.get(shape)
    if known is None:
        return spelled(shape, names)
    least, make = known
    if len(names) < least:
        raise PlanError("network.grudge: shape", shape, f"needs {least} nodes, and there are {len(names)}")
    if node and node not in names:
        raise PlanError("network.grudge: node", node, f"is not there; there are {', '.join(names)}")
    return sorted(make(list(names), node, random))


def spelled(text: str, names: Sequence[str] = ()) -> list[Cut]:
    """The cuts that `text` spells out; without `names` any name passes. Raises PlanError."""
    found: set[Cut] = set()
    for clause in text.split(";"):
        senders, arrow, hearers = clause.partition(">")
        if arrow:
            found |= {(a, b) for a in _group(text, senders, names) for b in _group(text, hearers, names)}
            continue
        groups = [_group(text, it, names) for it in clause.split("|")]
        if len(groups) < 2:
            raise PlanError(
                "network.grudge: shape", text, f"use {', '.join(SHAPES)}, or groups such as a,b|c, or a>b for one way"
            )
        found |= _apart(*groups)
    if twice := [a for a, b in found if a == b]:
        raise PlanError("network.grudge: shape", text, f"{twice[0]} stands on both sides")
    return sorted(found)


def _group(text: str, words: str, names: Sequence[str]) -> list[str]:
    group = [it.strip() for it in words.split(",")]
    for name in group:
        if not name:
            raise PlanError("network.grudge: shape", text, "a group is empty; write for example a,b|c")
        if names and name not in names:
            raise PlanError("network.grudge: shape", text, f"there is no node {name}; there are {', '.join(names)}")
    return group


def _apart(*groups: Sequence[str]) -> set[Cut]:
    return {pair for one, other in combinations(groups, 2) for a in one for b in other for pair in ((a, b), (b, a))}


def _majority_minority(names: list[str], node: str, random: Random) -> set[Cut]:
    return _minority(names, node, random, (len(names) - 1) // 2)


def _halves(names: list[str], node: str, random: Random) -> set[Cut]:
    return _minority(names, node, random, len(names) // 2)


def _minority(names: list[str], node: str, random: Random, size: int) -> set[Cut]:
    few = [node] if node else []
    few += random.sample([it for it in names if it not in few], size - len(few))
    return _apart(few, [it for it in names if it not in few])


def _bridge(names: list[str], node: str, random: Random) -> set[Cut]:
    middle = node or random.choice(names)
    return _halves([it for it in names if it != middle], "", random)


def _ring(names: list[str], node: str, random: Random) -> set[Cut]:  # noqa: ARG001 - nobody stands apart
    around = len(names)
    return {
        (a, b)
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i != j and (i - j) % around not in (1, around - 1)
    }


def _isolate(names: list[str], node: str, random: Random) -> set[Cut]:
    return _minority(names, node, random, 1)


def _one_way(names: list[str], node: str, random: Random) -> set[Cut]:
    mute = node or random.choice(names)
    return {(mute, it) for it in names if it != mute}


def _random(names: list[str], node: str, random: Random) -> set[Cut]:  # noqa: ARG001 - nobody stands apart
    pairs = list(combinations(names, 2))
    chosen = [it for it in pairs if random.random() < 0.5] or [random.choice(pairs)]
    return {cut for a, b in chosen for cut in ((a, b), (b, a))}


SHAPES: dict[str, tuple[int, Callable[[list[str], str, Random], set[Cut]]]] = {
    "majority-minority": (3, _majority_minority),
    "halves": (2, _halves),
    "bridge": (3, _bridge),
    "ring": (4, _ring),
    "isolate": (2, _isolate),
    "one-way": (2, _one_way),
    "random": (2, _random),
}
"""Each with the fewest nodes it needs."""
