"""The page: the verdict in a sentence, then what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite
from pathlib import Path

from aiobs.chaos.containment.model import Cell, Recovery, Samples, Spec, Verdict
from aiobs.chaos.containment.report.charts import chart

_STYLE = """
:root{color-scheme:light dark;--ink:#1a1c20;--page:#fff;--line:#d5d8de;--dim:#667;--good:#1a7f37;--bad:#c62828;--open:#9a6700}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ec;--page:#14161a;--line:#3a3e46;--dim:#9aa;--good:#4cc26a;--bad:#ff7b72;--open:#e3b341}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;border-left:.4rem solid;padding-left:.8rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-size:.85rem}th,td{text-align:left;padding:.3rem .5rem;border-bottom:1px solid var(--line);vertical-align:top}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}
svg{width:100%;height:auto}figure{margin:1rem 0;break-inside:avoid}.wide{overflow-x:auto}
@media print{body{margin:0;max-width:none}tr,li{break-inside:avoid}.wide{overflow:visible}}
"""
_TONE = {"contained": "good", "inconclusive": "open", "invalid": "open", "aborted": "open"}
_CELL = {"held": "good", "harmed": "bad"}
_LEGEND = "Blue: baseline, red: fault, green: recovery; red lines: injection and verified undo."


def render(verdict: Verdict, spec: Spec, samples: Sequence[Samples]) -> str:
    """The whole report as one HTML document that loads nothing.

    Raises:
        NotEnabledError: matplotlib is not installed.
    """
    tone = _TONE.get(verdict.kind, "bad")
    parts = [
        f"<h1 class={tone}>{escape(verdict.kind.replace('_', ' '))}</h1><p>{escape(verdict.sentence)}</p>",
        _fault(verdict),
        "<h2>Boundaries and objectives</h2>",
        _matrix(verdict),
    ]
    if verdict.windows is not None:
        parts.append(f"<h2>Over time</h2><p class=dim>{_LEGEND}</p>")
        for slo in spec.slos:
            drawn = chart(slo, [it for it in samples if it.slo == slo.name], verdict.windows)
            parts.append(f"<figure><figcaption><b>{escape(slo.name)}</b></figcaption>{drawn}</figure>")
    parts += ["<h2>Recovery</h2>", _recoveries(verdict.recoveries)]
    parts += ["<h2>What this certifies</h2>", _list(verdict.certifies)]
    parts += ["<h2>What it does not certify</h2>", _list(verdict.does_not_certify)]
    parts += ["<h2>Raw figures</h2>", _raw(verdict)]
    title = escape(f"{verdict.kind}: containment report")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def write_reports(path: Path, verdicts: Sequence[Verdict], spec: Spec, samples: Sequence[Samples]) -> list[Path]:
    """Write :func:`render` of each verdict: to `path`, or where there are several beside it, with the fault's id.

    Raises:
        NotEnabledError: matplotlib is not installed.
        OSError: it cannot be written.
    """
    written = []
    for verdict in verdicts:
        many = len(verdicts) > 1 and verdict.fault is not None
        to = path.with_name(f"{path.stem}-{verdict.fault.id}{path.suffix}") if many and verdict.fault else path
        to.write_text(render(verdict, spec, samples), "utf-8")
        written.append(to)
    return written


def _number(value: float) -> str:
    return f"{value:.4g}" if isfinite(value) else ("unbounded" if value in (float("inf"), float("-inf")) else "none")


def _table(heads: Sequence[str], rows: Sequence[str], empty: str) -> str:
    if not rows:
        return f"<p class=dim>{escape(empty)}</p>"
    head = "".join(f"<th>{escape(it)}</th>" for it in heads)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _tone(verdict: Verdict, cell: Cell) -> str:
    """Harm where it was allowed is no alarm: it is what the experiment was for."""
    if cell.result == "harmed" and cell.side == "inside" and cell.stratum not in verdict.strata:
        return "open"
    return _CELL.get(cell.result, "open")


def _matrix(verdict: Verdict) -> str:
    rows = [
        f"<tr><td>{escape(it.stratum)}<br><span class=dim>{it.side}</span></td><td>{escape(it.slo)}</td>"
        f"<td class={_tone(verdict, it)}><b>{it.result.replace('_', ' ')}</b></td>"
        f"<td class=n>{_number(it.baseline)} → {_number(it.fault)}</td><td class=n>{_number(it.estimate)}</td>"
        f"<td class=n>{_number(it.low)} … {_number(it.high)}</td><td class=n>{_number(it.margin)}</td>"
        f"<td>{escape(it.reason)}</td></tr>"
        for it in verdict.cells
    ]
    heads = ("boundary", "objective", "result", "before → during", "worse by", "interval", "margin", "why")
    return _table(heads, rows, "Nothing could be judged.")


def _recoveries(found: Sequence[Recovery]) -> str:
    rows = []
    for it in found:
        state = (
            "relapsed" if it.relapse else "not seen" if it.unseen else "not recovered" if it.censored else "recovered"
        )
        if not (it.last_bad_s or it.first_good_s or it.unseen or it.censored):
            state = "never ill"
        when = "" if it.unseen or state == "never ill" else f"{it.last_bad_s:.2f} … {it.first_good_s:.2f} s"
        rows.append(
            f"<tr><td>{escape(it.stratum)}<br><span class=dim>{it.side}</span></td><td>{escape(it.slo)}</td>"
            f"<td>{state}</td><td class=n>{when}</td><td>{escape(it.reason)}</td></tr>"
        )
    return _table(("boundary", "objective", "state", "after the undo", "why"), rows, "Recovery was not looked at.")


def _fault(verdict: Verdict) -> str:
    fault = verdict.fault
    if fault is None:
        return ""
    held = f" for {(fault.undone_ns - fault.injected_ns) / 1e9:.1f} s" if fault.undone_ns else ""
    trace = f"; trace {escape(fault.trace_id)}" if fault.trace_id else ""
    return f"<p class=dim>Fault {escape(fault.kind)} on {escape(fault.target or fault.boundary)}{held}{trace}</p>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(it)}</li>' for it in lines)}</ul>" if lines else "<p class=dim>Nothing.</p>"


def _raw(verdict: Verdict) -> str:
    rows = [
        f"<tr><td>{escape(it.stratum)}</td><td>{escape(it.slo)}</td><td class=n>{it.n_baseline}</td><td class=n>{it.n_fault}</td>"
        f"<td class=n>{_number(it.n_eff)}</td><td class=n>{_number(it.p_harm)}</td><td class=n>{_number(it.more_needed)}</td>"
        f"<td>{escape(it.method)}</td></tr>"
        for it in verdict.cells
    ]
    heads = ("boundary", "objective", "n before", "n during", "independent", "p of harm", "times more data", "test")
    return _table(heads, rows, "There are none.")
