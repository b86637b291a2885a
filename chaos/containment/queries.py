"""SLOs whose figures stand in Prometheus: OpenSLO's ``metricSource: {type: Prometheus, spec: {query: ...}}``."""

from __future__ import annotations

from typing import cast

from aiobs.chaos.containment.document import Node
from aiobs.chaos.containment.model import Indicator, Kind

_TYPE = "Prometheus"


def in_prometheus(metric: Node) -> bool:
    """Whether a ``ratioMetric`` or ``thresholdMetric`` asks Prometheus, in any of its parts."""
    parts = [metric, *[metric.child(side) for side in ("good", "bad", "total") if metric.has(side)]]
    return any(part.has("metricSource") and part.child("metricSource").value.get("type") == _TYPE for part in parts)


def ratio_of(metric: Node) -> tuple[Kind, Indicator]:
    """Counters of good or bad events, and of all. Raises PlanError."""
    metric.only("counter", "good", "bad", "total")
    if metric.value.get("counter", True) is not True:
        metric.refuse("counter", metric.value["counter"], "counters are needed, which only grow: counter: true")
    side = "bad" if metric.has("bad") else "good"
    return "ratio", Indicator(queries={name: _query(metric.child(name)) for name in (side, "total")})


def threshold_of(metric: Node) -> tuple[Kind, Indicator]:
    """A series whose samples keep the objective's value or not; with ``judged_as: mean`` their mean. Raises PlanError."""
    spec = metric.child("metricSource").child("spec")
    kind: Kind = cast(Kind, spec.expect("judged_as", ("threshold", "mean"))) if spec.has("judged_as") else "threshold"
    return kind, Indicator(queries={"value": _query(metric)})


def _query(node: Node) -> str:
    source = node.child("metricSource")
    source.only("type", "spec", "metricSourceRef")
    source.expect("type", (_TYPE,))
    spec = source.child("spec")
    spec.only("query", "judged_as")
    return spec.text("query").strip()
