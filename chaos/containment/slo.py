"""OpenSLO v1 documents as SLOs over spans.

``metricSource.spec`` says what is measured: ``sli`` names one of :data:`INDICATORS`, or ``spans``, ``value`` and ``bad``
say it in full. OpenSLO knows no margin: that stands in the spec's own ``margins``, beside the documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from aiobs import names
from aiobs.chaos.containment.document import Node
from aiobs.chaos.containment.model import Indicator, Kind, Slo
from aiobs.chaos.containment.queries import in_prometheus, ratio_of, threshold_of

_SERVER = {"span.kind": ("server",)}
_STEP = {"span.name": (names.SPAN_STEP, names.SPAN_RANK_STEP)}
_FAILED = {"error": ("true",)}

INDICATORS: Mapping[str, tuple[Kind, Indicator]] = {
    "latency": ("threshold", Indicator(_SERVER, "duration")),
    "ttft": ("threshold", Indicator(_SERVER, names.TIME_TO_FIRST_TOKEN)),
    "tpot": ("threshold", Indicator(_SERVER, names.TIME_PER_OUTPUT_TOKEN)),
    "queue_time": ("threshold", Indicator(_SERVER, names.REQUEST_QUEUE)),
    "error_rate": ("ratio", Indicator(_SERVER, bad=_FAILED)),
    "availability": ("ratio", Indicator(_SERVER, bad={**_FAILED, names.HTTP_STATUS: ("5*",)})),
    "goodput": ("rate", Indicator(_SERVER, bad=_FAILED)),
    "step_time": ("mean", Indicator(_STEP, "duration")),
}
"""What can be measured by name."""

_METHODS = ("Occurrences", "Timeslices", "RatioTimeslices")
_BESIDE = ("SLI", "Service", "DataSource", "AlertPolicy", "AlertCondition", "AlertNotificationTarget")
_COUNTED = "spans are counted one by one, and a ratio worked out before tells of none: use `bad` and `total`"

MARGINS: Mapping[str, float] = {"ratio": 0.01, "threshold": 0.05, "mean": 0.1, "rate": 0.1, "rare": 6.0}
"""Degradation that still counts as none, where the spec names no other: see docs/containment.md."""


def slo_of(document: Node) -> Slo:
    """The SLO of one OpenSLO document. Raises PlanError, naming line, field, value and remedy."""
    document.expect("apiVersion", ("openslo/v1",))
    document.only("apiVersion", "kind", "metadata", "spec")
    if document.has("kind") and document.value["kind"] in _BESIDE:
        document.refuse(
            "kind", document.value["kind"],
            "only documents of kind SLO stand in `slos`; write an SLI into its SLO's `indicator`, leave the others out: nothing is judged by them",
        )  # fmt: skip
    document.expect("kind", ("SLO",))
    name = document.child("metadata").text("name")
    spec = document.child("spec")
    spec.only(
        "service", "indicator", "indicatorRef", "objectives", "timeWindow", "budgetingMethod", "description", "alertPolicies"
    )  # fmt: skip
    if spec.has("indicatorRef"):
        spec.refuse(
            "indicatorRef",
            spec.value["indicatorRef"],
            "write the SLI itself under `indicator`: no other document is read",
        )
    method = spec.expect("budgetingMethod", _METHODS) if spec.has("budgetingMethod") else "Occurrences"
    if method != "Occurrences":
        spec.refuse(
            "budgetingMethod",
            method,
            "use Occurrences: each request counts, and windows of an experiment are seconds long",
        )
    metric = spec.child("indicator").child("spec")
    metric.only("thresholdMetric", "ratioMetric", "description")
    ratio = metric.has("ratioMetric")
    kind, indicator = _ratio(metric.child("ratioMetric")) if ratio else _threshold(metric.child("thresholdMetric"))
    objectives = spec.items("objectives")
    if len(objectives) != 1:
        spec.refuse("objectives", len(objectives), "one objective for each SLO; write another document for the next")
    objective = objectives[0]
    if objective.has("indicator") or objective.has("indicatorRef") or objective.has("compositeWeight"):
        objective.refuse(
            "compositeWeight",
            objective.value.get("compositeWeight"),
            "composite SLOs are not judged: write each part as an SLO of its own",
        )
    objective.only("displayName", "op", "value", "target", "targetPercent", "timeSliceTarget", "timeSliceWindow")
    target = objective.number("target", None)
    if target is None and objective.has("targetPercent"):
        target = objective.number("targetPercent") / 100
    if target is not None and not 0 < target < 1:
        objective.refuse("target", target, "a share between 0 and 1, such as 0.99")
    if kind in ("ratio", "threshold") and target is None:
        objective.refuse("target", None, "the share of good spans that is promised, such as 0.99")
    if kind == "threshold":
        objective.expect("op", ("lte", "lt"))
        indicator = replace(indicator, above=objective.number("value"))
    days = _days(spec)
    return Slo(name, kind, indicator, target, MARGINS[kind], budget_days=days, line=document.line)


def _ratio(node: Node) -> tuple[Kind, Indicator]:
    if in_prometheus(node):
        return ratio_of(node)
    node.only("counter", "good", "bad", "total", "raw", "rawType")
    for side in ("raw", "rawType"):
        if node.has(side):
            node.refuse(side, node.value[side] if side == "rawType" else "...", _COUNTED)
    if node.has("good") and node.has("bad"):
        node.refuse("good", "...", "either `good` or `bad`, beside `total`")
    if node.has("good"):
        node.refuse("good", "...", "spans are counted by what makes one bad: use `bad` and `total`")
    if not node.has("bad"):
        node.refuse("bad", None, "a metricSource for the bad spans (and one for `total`)")
    kind, indicator = _source(node.child("bad").child("metricSource"), "ratio")
    if kind == "threshold":
        node.child("bad").refuse("metricSource", indicator.value, "it has a value: use thresholdMetric for it")
    if not indicator.bad:
        node.child("bad").child("metricSource").refuse(
            "spec", None, "say what makes a span bad, such as bad: {error: true}"
        )
    return kind, indicator


def _threshold(node: Node) -> tuple[Kind, Indicator]:
    if in_prometheus(node):
        return threshold_of(node)
    kind, indicator = _source(node.child("metricSource"), "threshold")
    if kind in ("ratio", "rate", "rare"):
        node.child("metricSource").refuse("spec", kind, "it has no value to compare: use ratioMetric for it")
    if not indicator.value:
        node.child("metricSource").refuse("spec", None, "name the value: duration, or an attribute")
    return kind, indicator


def _source(node: Node, plain: Kind) -> tuple[Kind, Indicator]:
    if node.has("metricSourceRef"):
        node.refuse(
            "metricSourceRef", node.value["metricSourceRef"], "write type and spec here: no other document is read"
        )
    node.only("type", "spec")
    node.expect("type", ("aiobs", "Prometheus"))
    spec = node.child("spec")
    spec.only("sli", "spans", "value", "bad", "judged_as")
    kind, indicator = plain, Indicator()
    if spec.has("sli"):
        sli = spec.expect("sli", tuple(INDICATORS))
        kind, indicator = INDICATORS[sli]
    if spec.has("spans"):
        indicator = replace(indicator, spans={**indicator.spans, **spec.patterns("spans")})
    if spec.has("value"):
        indicator = replace(indicator, value=spec.text("value"))
    if spec.has("bad"):
        indicator = replace(indicator, bad=spec.patterns("bad"))
    if spec.has("judged_as"):
        kind = cast(Kind, spec.expect("judged_as", tuple(MARGINS)))
    return kind, indicator


def _days(spec: Node) -> float:
    windows = spec.items("timeWindow") if spec.has("timeWindow") else []
    if not windows:
        return 28.0
    text = windows[0].text("duration")
    units: dict[str, Any] = {"m": 1 / 1440, "h": 1 / 24, "d": 1.0, "w": 7.0, "M": 30.0, "Q": 91.0, "Y": 365.0}
    if not text[:-1].isdigit() or text[-1] not in units:
        windows[0].refuse("duration", text, "OpenSLO's m, h, d, w, M, Q or Y, such as 28d; seconds belong in `windows`")
    return float(int(text[:-1]) * units[text[-1]])
