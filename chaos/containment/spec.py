"""The spec of a verdict: boundaries, SLOs, margins and windows, from YAML, JSON or Python, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiobs.chaos.containment.document import Node, read_document
from aiobs.chaos.containment.invariant_document import invariant_of
from aiobs.chaos.containment.model import Boundary, Slo, Spec, Windows
from aiobs.chaos.containment.slo import slo_of

_FIELDS = (
    "boundaries",
    "slos",
    "margins",
    "allowed",
    "advisory",
    "permitted",
    "control",
    "windows",
    "alpha",
    "absorbed",
    "rest",
    "invariants",
)
_PIECES = ("baseline", "fault", "recovery")


def read_spec(source: str | Path | dict[str, Any]) -> Spec:
    """The spec in a file, or made in Python.

    Raises:
        PlanError: something in it cannot be; its field names file, line and field.
        NotEnabledError: PyYAML is not installed.
    """
    root = read_document(source)
    root.only(*_FIELDS)
    boundaries = _named(root, "boundaries", [_boundary(node) for node in root.items("boundaries")])
    slos = _named(root, "slos", [slo_of(node) for node in root.items("slos")])
    slos = tuple([_beside(slo, root) for slo in slos])
    known = [boundary.name for boundary in boundaries]
    permitted = root.texts("permitted")
    control = root.text("control", "")
    for field, found in (("permitted", permitted), ("control", (control,) if control else ())):
        for name in found:
            # A boundary for `each` value is known only once the telemetry is read.
            if name not in known and not any(name.startswith(f"{other}=") for other in known):
                root.refuse(field, name, f"no such boundary; there are {', '.join(known)}")
    if control in permitted and control:
        root.refuse(
            "control", control, "a control is a boundary that the fault cannot reach: it cannot be permitted too"
        )
    alpha = root.number("alpha", Spec.alpha)
    if not 0 < alpha < 0.5:
        root.refuse("alpha", alpha, "an error rate between 0 and 0.5, such as 0.005")
    invariants = (
        _named(root, "invariants", [invariant_of(node) for node in root.items("invariants")])
        if root.has("invariants")
        else ()
    )
    lengths, windows = _windows(root.child("windows")) if root.has("windows") else ({}, None)
    return Spec(
        boundaries, slos, permitted, control, windows, **lengths, alpha=alpha, absorbed=_flag(root, "absorbed", False),
        rest=_flag(root, "rest", True), path="" if isinstance(source, dict) else str(source), invariants=invariants,
    )  # fmt: skip


def _flag(root: Node, name: str, default: bool) -> bool:
    found = root.value.get(name, default)
    if not isinstance(found, bool):
        root.refuse(name, found, "true or false")
    return bool(found)


def _boundary(node: Node) -> Boundary:
    node.only("name", "where", "each", "interfaces")
    if node.has("each"):
        attribute = node.text("each")
        if node.has("where"):
            node.refuse(
                "where", node.value["where"], "either `where` or `each`: each makes one boundary for every value"
            )
        return Boundary(node.text("name", attribute), {attribute: ("{each}",)}, node.texts("interfaces"), node.line)
    return Boundary(node.text("name"), node.patterns("where"), node.texts("interfaces"), node.line)


def _named(root: Node, field: str, found: list[Any]) -> tuple[Any, ...]:
    seen = [item.name for item in found]
    for name in seen:
        if seen.count(name) > 1:
            root.refuse(field, name, "two of them have this name; give each its own")
    return tuple(found)


def _beside(slo: Slo, root: Node) -> Slo:
    margins = root.child("margins") if root.has("margins") else None
    allowed = root.child("allowed") if root.has("allowed") else None
    margin = margins.number(slo.name, slo.margin) if margins else slo.margin
    bound = allowed.number(slo.name, None) if allowed else None
    for node in (margins, allowed):
        for name in node.value if node else ():
            known = [other.child("metadata").text("name") for other in root.items("slos")]
            if node and name not in known:
                node.refuse(str(name), node.value[name], f"no such SLO; there are {', '.join(known)}")
    if margins and margin <= 0:
        margins.refuse(slo.name, margin, "a degradation above 0: that there is none at all cannot be shown by any data")
    if margins and slo.kind in ("ratio", "threshold") and margin >= 1:
        margins.refuse(slo.name, margin, "a difference of shares below 1, such as 0.01 for one percentage point")
    if allowed and bound is not None and bound < margin:
        allowed.refuse(slo.name, bound, f"inside no less may be allowed than outside, where the margin is {margin:g}")
    return replace(slo, margin=margin, allowed=bound, required=slo.name not in root.texts("advisory"))


def _windows(node: Node) -> tuple[dict[str, float | None], Windows | None]:
    node.only("baseline", "guard", "fault", "recovery", "hold")
    by_hand = node.has("fault") and isinstance(node.value["fault"], list)
    lengths: dict[str, float | None] = {f"{name}_s": node.seconds(name) for name in ("guard", "hold")}
    if not by_hand:
        if node.has("fault"):
            node.refuse(
                "fault",
                node.value["fault"],
                "[from, to] in Unix seconds or RFC 3339; else leave it out: fault spans tell",
            )
        lengths |= {f"{name}_s": node.seconds(name) for name in ("baseline", "recovery")}
        for name, length in lengths.items():
            if length == 0 and name != "guard_s":
                node.refuse(name.removesuffix("_s"), 0, "a length above 0")
        return lengths, None
    spans = {name: _interval(node, name) for name in _PIECES}
    if not spans["baseline"][1] <= spans["fault"][0] or not spans["fault"][1] <= spans["recovery"][0]:
        node.refuse("fault", node.value["fault"], "after the baseline and before the recovery; they must not overlap")
    hold = lengths["hold_s"] or (spans["recovery"][1] - spans["recovery"][0]) / 2e9
    return {}, Windows(
        spans["baseline"], spans["fault"], spans["recovery"], round(hold * 1e9), spans["fault"][0], spans["recovery"][0], "by hand"
    )  # fmt: skip


def _interval(node: Node, name: str) -> tuple[int, int]:
    found = node.value.get(name)
    if not isinstance(found, list) or len(found) != 2:
        node.refuse(name, found, "[from, to], as for the fault")
    first, end = (_moment(node, name, moment) for moment in found)
    if not first < end:
        node.refuse(name, found, "it ends before it begins")
    return first, end


def _moment(node: Node, name: str, found: Any) -> int:
    from datetime import datetime, timezone

    if isinstance(found, str):
        try:
            found = datetime.fromisoformat(found.replace("Z", "+00:00"))
        except ValueError:
            node.refuse(name, found, "Unix seconds, or RFC 3339 such as 2026-01-31T12:00:00Z")
    if isinstance(found, datetime):
        if found.tzinfo is None:
            found = found.replace(tzinfo=timezone.utc)
        moment: datetime = found
        return round(moment.timestamp() * 1e6) * 1000
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < 2**63:
        node.refuse(name, found, "Unix seconds, or RFC 3339 such as 2026-01-31T12:00:00Z")
    # Beyond the year 5138 in seconds: the number was nanoseconds.
    number = float(found)
    return int(found) if number > 1e11 else round(number * 1e9)


def expand(spec: Spec, seen: Mapping[str, tuple[str, ...]]) -> Spec:
    """`spec` with a boundary for each value seen where it says ``each``. Raises PlanError where none was seen."""
    found: list[Boundary] = []
    for boundary in spec.boundaries:
        if ("{each}",) not in boundary.where.values():
            found.append(boundary)
            continue
        attribute = next(iter(boundary.where))
        values = seen.get(attribute, ())
        if not values:
            Node(None, spec.path, "boundaries", {"boundaries": boundary.line}).refuse(
                "each",
                attribute,
                f"no telemetry carries it; there are {', '.join(sorted(key for key, some in seen.items() if some)) or 'no attributes at all'}",
            )
        if len(found) + len(values) > 60:
            Node(None, spec.path, "boundaries", {"boundaries": boundary.line}).refuse(
                "each",
                attribute,
                f"it has {len(values)} values and there can be 60 boundaries: group them with `where` and wildcards",
            )
        found += [replace(boundary, name=f"{boundary.name}={value}", where={attribute: (value,)}) for value in values]
    return replace(spec, boundaries=tuple(found))
