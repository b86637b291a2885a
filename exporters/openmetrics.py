"""Metrics as OpenMetrics 1.0 or Prometheus text, with the names OpenTelemetry prescribes for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiobs.telemetry import Exemplar, HistogramPoint, Metric, Point

from . import legal

Labels = tuple[tuple[str, str], ...]

_UNITS = {
    "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "min": "minutes", "h": "hours",
    "d": "days", "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes", "kBy": "kilobytes",
    "MBy": "megabytes", "GBy": "gigabytes", "m": "meters", "V": "volts", "A": "amperes", "J": "joules", "W": "watts",
    "g": "grams", "Cel": "celsius", "Hz": "hertz", "%": "percent",
}  # fmt: skip
_PER = {"s": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}
_TYPES = {"sum": "counter", "updown": "gauge", "gauge": "gauge", "histogram": "histogram"}


@dataclass
class Family:
    """All series of one metric name; `points` by (owner, labels)."""

    type: str
    unit: str
    help: str
    points: dict[tuple[object, Labels], Point | HistogramPoint] = field(default_factory=dict)


def family_of(metric: Metric) -> tuple[str, Family]:
    """The family a metric belongs to: its name, without the ``_total`` of a counter, and an empty family."""
    type_ = _TYPES.get(metric.kind, "gauge")
    unit = _unit(metric.unit)
    if metric.unit == "1" and metric.kind == "gauge":
        unit = "ratio"
    name = _identifier(metric.name)
    if type_ == "counter":
        name = name.removesuffix("_total")
    if unit and name != unit and not name.endswith("_" + unit):
        name = f"{name}_{unit}"
    return name, Family(type_, unit, metric.description)


def labels_of(*maps: Mapping[str, Any]) -> Labels:
    """Attributes as labels, sorted; attributes that become one label are joined by ";"."""
    found: dict[str, str] = {}
    for attributes in maps:
        for key, value in attributes.items():
            label = _label(legal.key(key))
            found[label] = f"{found[label]};{legal.one_text(value)}" if label in found else legal.one_text(value)
    return tuple(sorted(found.items()))


def render(families: Mapping[str, Family], targets: list[Labels], *, openmetrics: bool) -> str:
    """The whole exposition; `targets` are the labels of each ``target_info``."""
    lines: list[str] = []
    if targets:
        lines.append(f"# TYPE {'target info' if openmetrics else 'target_info gauge'}")
        lines += [f"target_info{_braces(labels)} 1" for labels in targets]
    for name, family in sorted(families.items()):
        if family.points:
            lines += _family(name, family, openmetrics=openmetrics)
    if openmetrics:
        lines.append("# EOF")
    return "".join([line + "\n" for line in lines])


def _family(name: str, family: Family, *, openmetrics: bool) -> Iterator[str]:
    sample = f"{name}_total" if family.type == "counter" else name
    header = name if openmetrics else sample
    yield f"# TYPE {header} {family.type}"
    if openmetrics and family.unit:
        yield f"# UNIT {header} {family.unit}"
    if family.help:
        yield f"# HELP {header} {_escaped(family.help, quotes=openmetrics)}"
    for (_, labels), point in family.points.items():
        if isinstance(point, HistogramPoint):
            yield from _histogram(name, labels, point, openmetrics=openmetrics)
        else:
            yield f"{sample}{_braces(labels)} {_number(point.value)}"


def _histogram(name: str, labels: Labels, point: HistogramPoint, *, openmetrics: bool) -> Iterator[str]:
    total = 0
    lower = float("-inf")
    for upper, count in zip((*point.bounds, float("inf")), point.counts, strict=False):
        total += count
        line = f"{name}_bucket{_braces((*labels, ('le', _number(float(upper)))))} {total}"
        found = [one for one in point.exemplars if lower < one.value <= upper] if openmetrics else ()
        yield line + _exemplar(max(found, key=lambda one: one.time_ns)) if found else line
        lower = upper
    yield f"{name}_count{_braces(labels)} {point.count}"
    yield f"{name}_sum{_braces(labels)} {_number(point.sum)}"


def _exemplar(one: Exemplar) -> str:
    ids = (("trace_id", one.trace_id.hex()), ("span_id", one.span_id.hex())) if one.trace_id else ()
    return f" # {_braces(ids) or '{}'} {_number(one.value)} {one.time_ns / 1e9:.3f}"


def _unit(unit: str) -> str:
    """The suffix for a UCUM unit, "" for none; what stands in braces is a remark."""
    unit = re.sub(r"\{[^}]*\}", "", unit).strip()
    main, slash, per = unit.partition("/")
    main = "" if main in ("", "1") else _UNITS.get(main, main)
    parts = [main, f"per_{_PER.get(per, per)}" if slash and per else ""]
    return _identifier("_".join([part for part in parts if part])) if any(parts) else ""


def _identifier(name: str) -> str:
    name = re.sub(r"_+", "_", re.sub(r"[^a-zA-Z0-9:_]", "_", legal.text(name))).strip("_")
    return f"_{name}" if not name or name[0].isdigit() else name


def _label(name: str) -> str:
    label = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    if label[:1].isdigit() or not label:
        label = f"key_{label}"
    # Two underscores in front are Prometheus's own; "le" is a histogram's.
    return f"key{label}" if label.startswith("__") else "key_le" if label == "le" else label


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escaped(value, quotes=True)}"' for name, value in labels]) + "}"


def _escaped(text: str, *, quotes: bool) -> str:
    text = legal.text(text).replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return legal.integer_text(value)
    number = legal.number(value)
    if number - number == 0:
        return repr(number)
    return "NaN" if number != number else "+Inf" if number > 0 else "-Inf"
