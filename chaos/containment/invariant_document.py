"""The field ``invariants`` of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from aiobs import names
from aiobs.chaos.containment.document import Node
from aiobs.chaos.containment.model import Invariant, InvariantKind

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "unique": ("spans",),
    "answered": ("asked", "by"),
    "monotonic": ("spans", "each", "back", "saved"),
    "equal": ("spans", "each", "at", "tolerance"),
}
_SERVER = {"span.kind": ("server",)}
_CLIENT = {"span.kind": ("client",)}
_STEP = {"span.name": (names.SPAN_STEP, names.SPAN_RANK_STEP)}


def invariant_of(node: Node) -> Invariant:
    """One invariant. Raises PlanError, naming line, field, value and remedy."""
    kinds = [kind for kind in _FIELDS if node.has(kind)]
    if len(kinds) != 1:
        node.refuse(
            "", sorted(map(str, node.value)), f"exactly one of {', '.join(_FIELDS)}, with the attribute it is about"
        )
    kind = kinds[0]
    node.only("name", kind, *_FIELDS[kind])

    def where(name: str, default: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        return node.patterns(name) if node.has(name) else default

    back, tolerance = node.number("back", 0.0), node.number("tolerance", 0.0)
    for name, found in (("back", back), ("tolerance", tolerance)):
        if found < 0:
            node.refuse(name, found, "0 or more")
    if node.has("saved") and node.has("back"):
        node.refuse("back", back, "either `back` or `saved`: a checkpoint says by itself how far back a resume may go")
    spans = where("spans", _STEP if kind in ("monotonic", "equal") else _SERVER)
    by: Mapping[str, tuple[str, ...]] = {}
    if kind == "answered":
        spans, by = where("asked", _CLIENT), where("by", _SERVER)
    elif kind == "monotonic":
        by = where("saved", {})
    return Invariant(
        node.text("name"), cast(InvariantKind, kind), node.text(kind), spans, by, node.text("each", ""),
        node.text("at") if kind == "equal" else "", back, tolerance,
    )  # fmt: skip
