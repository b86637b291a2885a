"""At which hits a point acts: a function of the seed and of the hits so far, so that a replay acts at the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from aiobs.chaos.points.grammar import Term


class Program:
    """Terms with what they have done so far. Not safe for several threads at once.

    Attributes:
        hits: how often the point was reached, within the fault's scope.
        random: where tasks take their chance from.
    """

    def __init__(self, terms: Sequence[Term], seed: str) -> None:
        self.terms = tuple(terms)
        self.hits = 0
        self.random = Random(seed)  # noqa: S311 - to be repeatable
        self._used = [0] * len(self.terms)

    def hit(self, value: object, *, remembered: bool = False) -> Term | None:
        """The point is reached with `value`: what it does now, None for nothing.

        Args:
            remembered: there is a value from before that may be given again.
        """
        self.hits += 1
        for index, term in enumerate(self.terms):
            if (term.task != "stale" or remembered) and self._applies(index, term, value):
                self._used[index] += 1
                return None if term.task == "off" else term
        return None

    def _applies(self, index: int, term: Term, value: object) -> bool:
        if term.at is not None and not (isinstance(value, (int, float)) and value == term.at):
            return False
        later = self.hits - term.after
        if later <= 0 or later % term.every:
            return False
        if term.count is not None and self._used[index] >= term.count:
            return False
        return term.probability >= 1 or self.random.random() < term.probability
