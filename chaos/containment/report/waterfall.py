"""One trace as a waterfall: a table of spans with a bar each, which prints and is read aloud like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from aiobs import names
from aiobs.chaos.containment.boundaries import UNITS
from aiobs.chaos.containment.model import Windows
from aiobs.chaos.containment.report.trace_search import TraceSpan
from aiobs.chaos.containment.report.witnesses import Witness
from aiobs.chaos.containment.report.words import seconds
from aiobs.settings import load_settings

ROWS = 32
"""Spans shown of one trace; failed, hit and long ones first."""
_LONGEST = 300
_UNITS = {names.SERVICE_INSTANCE_ID: "instance", names.HOST_NAME: "host", names.RUN_ID: "run"}
"""Units whose attribute's last word does not say what they are."""


def waterfall(witness: Witness, windows: Windows, jaeger: str = "") -> str:
    """The trace of `witness` as HTML; `jaeger` is the address of a Jaeger that has it too, or ""."""
    tree = _tree(witness.spans)
    shown = _kept(tree, witness.span)
    first = min(span.start_ns for span, _ in shown)
    whole = max(max(span.end_ns for span, _ in shown) - first, 1)
    marks = _marks(windows, first, whole)
    rows = "".join(_row(span, depth, first, whole, marks, span.span_id == witness.span.span_id) for span, depth in shown)  # fmt: skip
    left = len(tree) - len(shown)
    more = f"<p class=dim>{left} more spans of this trace are not shown.</p>" if left else ""
    return (
        f"<figure class=trace><figcaption><b>{escape(witness.title)}</b>: {_hot(witness)}<br>"
        f"<span class=dim>{escape(witness.stratum)}, by {escape(witness.slo)}; trace {_link(witness.span, jaeger)}</span></figcaption>"
        f"<div class=wide><table><thead><tr><th scope=col>span</th><th scope=col>where</th>"
        f"<th scope=col class=lane>{_scale(whole)}</th><th scope=col class=n>took</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{more}</figure>"
    )


def jaeger_url(given: str | None) -> str:
    """The address of a Jaeger to link to: `given`, else the setting's, else "".

    Raises:
        SettingError: it is no web address.
    """
    return load_settings({"jaeger_url": given}).jaeger_url


def _link(span: TraceSpan, jaeger: str) -> str:
    shown = f"<code class=id>{escape(span.trace_id)}</code>"
    if not jaeger:
        return shown
    to = f"{jaeger.rstrip('/')}/trace/{span.trace_id}?uiFind={span.span_id}"
    return f'{shown} <a href="{escape(to)}">open in Jaeger</a>'


def _tree(spans: Sequence[TraceSpan]) -> list[tuple[TraceSpan, int]]:
    """Parents before their children, with their depth; what has no parent here stands at the top."""
    known = {it.span_id for it in spans}
    children: dict[str, list[TraceSpan]] = {}
    for it in spans:
        children.setdefault(it.parent_id if it.parent_id in known and it.parent_id != it.span_id else "", []).append(it)
    found: list[tuple[TraceSpan, int]] = []
    seen: set[str] = set()
    waiting = [(it, 0) for it in reversed(children.get("", ()))]
    while waiting:
        span, depth = waiting.pop()
        if span.span_id in seen:
            continue
        seen.add(span.span_id)
        found.append((span, depth))
        waiting += [(it, depth + 1) for it in reversed(children.get(span.span_id, ()))]
    # Spans that are each other's ancestors hang from nothing; they are shown all the same.
    return found + [(it, 0) for it in spans if it.span_id not in seen]


def _kept(tree: Sequence[tuple[TraceSpan, int]], wanted: TraceSpan) -> list[tuple[TraceSpan, int]]:
    if len(tree) <= ROWS:
        return list(tree)
    ranked = sorted(tree, key=lambda it: (it[0].span_id != wanted.span_id, not it[0].error, not it[0].hit, it[1] > 1, -it[0].seconds))  # fmt: skip
    kept = {span.span_id for span, _ in ranked[:ROWS]}
    return [it for it in tree if it[0].span_id in kept]


def hot_spot(witness: Witness) -> TraceSpan:
    """The span to look at: the deepest that failed, hit ones first; where none failed, the one with most time of its own."""
    depth = {span.span_id: deep for span, deep in _tree(witness.spans)}
    failed = [it for it in witness.spans if it.error]
    if failed:
        return max(failed, key=lambda it: (it.hit, depth[it.span_id]))
    own = {it.span_id: it.end_ns - it.start_ns for it in witness.spans}
    for it in witness.spans:
        if it.parent_id in own:
            own[it.parent_id] -= it.end_ns - it.start_ns
    return max(witness.spans, key=lambda it: own[it.span_id]) if witness.spans else witness.span


def _hot(witness: Witness) -> str:
    span = hot_spot(witness)
    said = f"{seconds(witness.span.seconds)}. "
    where = _where(span.told)
    said += f"<b>{escape(span.name)}</b>" + (f" in {escape(where)}" if where else "")
    if span.error:
        said += f" failed: <span class=bad>{escape(_cut(span.error))}</span>"
    else:
        said += f" took {seconds(span.seconds)} of it"
    return said + (" (hit by the fault)." if span.hit else ".")


def _where(told: Mapping[str, str]) -> str:
    service = told.get(names.SERVICE_NAME, "")
    units = [(key, told[key]) for key in UNITS if key in told and key not in (names.SERVICE_NAME, names.TENANT)]
    unit = f"{_UNITS.get(units[0][0], units[0][0].rpartition('.')[2])} {units[0][1]}" if units else ""
    return ", ".join(it for it in (service, unit) if it)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _scale(whole: int) -> str:
    return (
        f"<span class=scale><span>0</span><span>{seconds(whole / 2e9)}</span><span>{seconds(whole / 1e9)}</span></span>"
    )


def _marks(windows: Windows, first: int, whole: int) -> str:
    """Lines at the injection and the undo, where they fall into the trace."""
    found = ""
    for moment, what in ((windows.injected_ns, "fault injected"), (windows.undone_ns, "fault undone")):
        if first <= moment <= first + whole:
            found += f'<s style="left:{(moment - first) / whole:.2%}" title="{what}"></s>'
    return found


def _row(span: TraceSpan, depth: int, first: int, whole: int, marks: str, this: bool) -> str:
    left, width = (span.start_ns - first) / whole, max(span.end_ns - span.start_ns, 0) / whole
    kind = "bad" if span.error else "hit" if span.hit else ""
    name = f"<b>{escape(span.name)}</b>" if this else escape(span.name)
    told = f"<br><span class=bad>✗ {escape(_cut(span.error))}</span>" if span.error else ""
    told += "<br><span class=hit>↯ hit by the fault</span>" if span.hit else ""
    return (
        f'<tr><td style="padding-left:{0.4 + 0.9 * min(depth, 8):.1f}rem">{name}{told}</td><td>{escape(_where(span.told))}</td>'
        f'<td class=lane><div>{marks}<i class="{kind}" style="left:{left:.2%};width:{width:.2%}"></i></div></td>'
        f"<td class=n>{seconds(span.seconds)}</td></tr>"
    )
