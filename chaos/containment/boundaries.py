"""Boundaries against what the telemetry really carries, and boundaries that it suggests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from aiobs import names
from aiobs.chaos.containment.document import Node
from aiobs.chaos.containment.model import Seen, Spec

UNITS = (
    names.REPLICA,
    names.RANK,
    names.TENANT,
    names.SERVICE_INSTANCE_ID,
    names.HOST_NAME,
    names.GEN_AI_REQUEST_MODEL,
    names.MODEL_NAME,
    names.RUN_ID,
    names.SERVICE_NAME,
)
"""Attributes that tell units apart, the likeliest first."""


PLAIN = ("span.name", "span.kind", "error")
"""What can be asked of a span beside its attributes."""


def matches(where: Mapping[str, Sequence[str]], any_of: bool = False) -> Callable[[Mapping[str, str | None]], bool]:
    """Whether a span, given as attribute to value, is one that `where` means: all must match, or any; nothing asked is
    true of all, and of none with `any_of`."""
    tests = [(attribute, frozenset(values), _wildcards(values)) for attribute, values in where.items()]

    def fits(span: Mapping[str, str | None]) -> bool:
        found = (
            (value := span.get(attribute)) is not None
            and (value in exact or (pattern is not None and pattern.fullmatch(value) is not None))
            for attribute, exact, pattern in tests
        )
        return any(found) if any_of else all(found)

    return fits


def _wildcards(values: Sequence[str]) -> re.Pattern[str] | None:
    found = [re.escape(value).replace(r"\*", ".*").replace(r"\?", ".") for value in values if set("*?") & set(value)]
    return re.compile("|".join(found), re.DOTALL) if found else None


def check(spec: Spec, seen: Seen, carriers: Mapping[str, int], permitted: Sequence[str]) -> None:
    """Refuse boundaries that no span is in, or outside of which there is nothing.

    Raises:
        PlanError: with a list of what there is.
    """
    for place, boundary in enumerate(spec.boundaries):
        lines = {f"boundaries[{place}]": boundary.line}
        node = Node(None, spec.path, f"boundaries[{place}]", lines)
        if not carriers[boundary.name]:
            told = [
                f"{key} is one of {', '.join(seen.values.get(key, ())) or 'nothing: no telemetry carries it'}"
                for key in boundary.where
            ]
            known = ", ".join(sorted(seen.values))
            node.refuse(
                boundary.name,
                dict(boundary.where),
                f"no span is in this boundary: {'; '.join(told)}. Attributes seen: {known}",
            )
        if boundary.name in permitted and carriers[boundary.name] >= seen.spans:
            node.refuse(
                boundary.name,
                dict(boundary.where),
                f"all {seen.spans} spans are in it, nothing is outside: nothing could be contained",
            )
    for name in permitted:
        if name not in carriers:
            Node(None, spec.path, "permitted", {}).refuse(
                "", name, f"no such boundary; there are {', '.join(carriers)}"
            )


def suggest(values: Mapping[str, tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
    """Attributes that could make a boundary for each value: those with two values or more, the likeliest first."""
    return [(name, values[name]) for name in UNITS if len(values.get(name, ())) > 1]
