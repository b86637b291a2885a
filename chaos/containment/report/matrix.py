"""Boundaries × objectives: what held, what did not, and by how much."""

from __future__ import annotations

from html import escape

from aiobs import names
from aiobs.chaos.containment.amounts import worse
from aiobs.chaos.containment.model import Cell, Slo, Spec, Verdict
from aiobs.chaos.containment.report.words import figure, share, tone
from aiobs.chaos.containment.signs import RESULTS

_GROUPS = (
    ("outside", "Outside the permitted blast radius: must hold"),
    ("inside", "Permitted blast radius: may be hurt"),
)
_SECONDS = ("duration", names.TIME_TO_FIRST_TOKEN, names.TIME_PER_OUTPUT_TOKEN, names.REQUEST_QUEUE)


def matrix(verdict: Verdict, spec: Spec) -> str:
    """The table; every cell says its result in a word and a sign beside its colour."""
    if not verdict.cells:
        return "<p class=dim>Nothing could be judged.</p>"
    slos = {slo.name: slo for slo in spec.slos}
    asked = list(dict.fromkeys(it.slo for it in verdict.cells))
    of = {(it.stratum, it.slo): it for it in verdict.cells}
    groups = []
    for side, title in _GROUPS:
        strata = list(dict.fromkeys(it.stratum for it in verdict.cells if it.side == side))
        rows = "".join(
            f"<tr><th scope=row>{escape(name)}</th>"
            + "".join(_cell(verdict, of.get((name, slo)), slos.get(slo)) for slo in asked) + "</tr>"
            for name in strata
        )  # fmt: skip
        if rows:
            groups.append(f"<tbody><tr class=group><th scope=rowgroup colspan={len(asked) + 1}>{title}</th></tr>{rows}</tbody>")  # fmt: skip
    heads = "".join(f"<th scope=col>{escape(name)}{_promise(slos.get(name))}</th>" for name in asked)
    return (
        "<div class=wide><table class=matrix><caption>Each cell: the result, by how much it got worse during the fault "
        "(with bounds), and the margin below which that counts as nothing.</caption>"
        f"<thead><tr><th scope=col>boundary</th>{heads}</tr></thead>{''.join(groups)}</table></div>"
    )


def _promise(slo: Slo | None) -> str:
    if slo is None:
        return ""
    shares = slo.kind in ("ratio", "threshold") and slo.objective is not None
    told = (
        f"{share(slo.objective or 0.0)} good"
        if shares
        else {"mean": "mean", "rate": "good a second"}.get(slo.kind, "events")
    )
    unit = " s" if slo.indicator.value in _SECONDS else ""
    limit = (
        f", at most {slo.indicator.above:g}{unit}"
        if slo.kind == "threshold" and slo.indicator.above is not None
        else ""
    )
    return f"<br><small>{told}{limit}{'' if slo.required else '; told only'}</small>"


def _cell(verdict: Verdict, it: Cell | None, slo: Slo | None) -> str:
    if it is None:
        return "<td class=dim>not measured</td>"
    if tone(verdict, it) == "dim":
        return f'<td class=dim title="{escape(it.reason)}">not measured</td>'
    sign, word, _ = RESULTS[it.result]
    kind = slo.kind if slo else "ratio"
    told = ""
    if it.n_fault and it.result not in ("no_data", "baseline"):
        told = f"<br><span class=n>{worse(kind, it.estimate)} <small>({worse(kind, it.low)} … {worse(kind, it.high)})</small></span>"
    told += f"<br><small>margin {worse(kind, it.margin, sign=False)}</small>"
    hover = escape(
        f"{it.reason}. Before {figure(kind, it.baseline)}, during {figure(kind, it.fault)}; {it.n_baseline} and {it.n_fault} spans"
    )
    return f'<td class="cell {tone(verdict, it)}" title="{hover}"><b>{sign} {word}</b>{told}</td>'
