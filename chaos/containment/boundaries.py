"""Boundaries against what the telemetry really carries, and boundaries that it suggests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiobs import names
from aiobs.chaos.containment.document import Node
from aiobs.chaos.containment.model import Seen, Spec

UNITS = (
    names.REPLICA,
    names.RANK,
    names.TENANT,
    names.SERVICE_INSTANCE_ID,
    names.HOST_NAME,
    names.RUN_ID,
    names.SERVICE_NAME,
)
"""Attributes that tell units apart, the likeliest first."""


PLAIN = {"span.name": "name", "span.kind": "kind", "error": "error::VARCHAR"}
"""What can be asked of a span beside its attributes, and its column."""


def conditions(where: Mapping[str, Sequence[str]], columns: Mapping[str, str], any_of: bool = False) -> str:
    """SQL that is true for spans that match `where`, whose attributes are in `columns`; never NULL."""
    found = []
    for attribute, values in where.items():
        column = PLAIN.get(attribute) or columns[attribute]
        exact = [value for value in values if not set("*?[") & set(value)]
        tests = [f"{column} IN ({', '.join(_quoted(value) for value in exact)})"] if exact else []
        tests += [f"{column} GLOB {_quoted(value)}" for value in values if value not in exact]
        found.append(f"coalesce({' OR '.join(tests)}, false)")
    return "(" + ((" OR " if any_of else " AND ").join(found) or "true") + ")"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
