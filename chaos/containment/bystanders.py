"""Which strata a span belongs to, and what it says of each SLO: the judging of a verdict, span by span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiobs.chaos.containment.model import REST, Slo, Spec
from aiobs.chaos.containment.sources.observed import Observed, matcher
from aiobs.errors import PlanError

WATCHED = ("ratio", "threshold")
"""Kinds of SLO that are good or bad for each span, and so can be watched."""


@dataclass(frozen=True)
class Answer:
    """What a span says of one SLO in one stratum."""

    stratum: str
    slo: str
    bad: bool


class Bystanders:
    """See the module's text.

    Attributes:
        slos: the required ones that can be watched, by name.

    Raises:
        PlanError: no required SLO of the spec can be watched.
    """

    def __init__(self, spec: Spec) -> None:
        self.slos = {
            slo.name: slo for slo in spec.slos if slo.required and slo.kind in WATCHED and not slo.indicator.queries
        }
        if not self.slos:
            raise PlanError(
                "slos", ", ".join(slo.name for slo in spec.slos),
                "a watch needs a required SLO that is a ratio or a threshold of spans",
            )  # fmt: skip
        self._rest = spec.rest
        self._each = [
            (boundary.name, next(iter(boundary.where)))
            for boundary in spec.boundaries
            if ("{each}",) in boundary.where.values()
        ]
        self._named = [
            (boundary.name, matcher(boundary.where))
            for boundary in spec.boundaries
            if ("{each}",) not in boundary.where.values()
        ]
        self._counts = {name: matcher(slo.indicator.spans) for name, slo in self.slos.items()}
        self._bad = {
            name: matcher(slo.indicator.bad or ({"error": ("true",)} if slo.kind == "threshold" else {}), any_of=True)
            for name, slo in self.slos.items()
        }

    @property
    def named(self) -> tuple[str, ...]:
        """Boundaries that the spec names one by one."""
        return tuple(name for name, _ in self._named)

    def boundaries(self, span: Observed) -> list[str]:
        """The boundaries it is in."""
        found = [name for name, match in self._named if match(span)]
        for name, attribute in self._each:
            value = span.text(attribute)
            if value is not None:
                found.append(f"{name}={value}")
        return found

    def answers(self, span: Observed) -> list[Answer]:
        """What it says, in each of its strata; nothing where no SLO is about it."""
        said = [(name, bad) for name, slo in self.slos.items() if (bad := self._says(slo, span)) is not None]
        if not said:
            return []
        strata = self.boundaries(span) or ([REST] if self._rest else [])
        return [Answer(stratum, name, bad) for stratum in strata for name, bad in said]

    def _says(self, slo: Slo, span: Observed) -> bool | None:
        if not self._counts[slo.name](span):
            return None
        failed = self._bad[slo.name](span)
        if slo.kind == "ratio":
            return failed
        number = span.number(slo.indicator.value)
        if number is None or slo.indicator.above is None:
            return True if failed else None  # it failed before it had the value
        return number > slo.indicator.above


def outside(strata: Sequence[str], permitted: Sequence[str]) -> bool:
    """Whether a span of these strata is a bystander: in none of the boundaries that may be hurt."""
    return not set(strata) & set(permitted)
