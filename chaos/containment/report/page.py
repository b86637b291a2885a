"""The page: every fault's verdict in a sentence, then what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from aiobs.chaos.containment.exit_codes import gravest
from aiobs.chaos.containment.model import Samples, Spec, Verdict
from aiobs.chaos.containment.report.budget import budget_table, burns
from aiobs.chaos.containment.report.charts import chart
from aiobs.chaos.containment.report.evidence import (
    certified,
    facts,
    invariants,
    raw_figures,
    recoveries,
    repeated,
    source_figures,
    spec_text,
    windows_table,
)
from aiobs.chaos.containment.report.look import STYLE
from aiobs.chaos.containment.report.matrix import matrix
from aiobs.chaos.containment.report.timeline import drawn_rows, timeline
from aiobs.chaos.containment.report.waterfall import waterfall
from aiobs.chaos.containment.report.witnesses import Witness, look_up, wanted
from aiobs.chaos.containment.report.words import when
from aiobs.chaos.containment.signs import VERDICTS, spoken
from aiobs.chaos.containment.written import title

SamplesOf = Callable[[Sequence[str]], Sequence[Samples]]
"""The samples of each stratum, given the boundaries that may be hurt."""


def render(
    verdicts: Sequence[Verdict],
    spec: Spec,
    samples: SamplesOf | Sequence[Samples],
    *,
    files: Sequence[Path] = (),
    jaeger: str = "",
    command: str = "",
) -> str:
    """The whole report as one HTML document that loads nothing.

    Args:
        samples: what was judged, or what gives it for the boundaries a fault may hurt (faults differ in these).
        files: OTLP JSON Lines in which the traces are looked up; without any, none are shown.
        jaeger: address of a Jaeger that has the traces too.
        command: what repeats the verdict; "" works it out from `files` and the spec's path.

    Raises:
        NotEnabledError: matplotlib is not installed.
        OSError: one of `files` cannot be read.
    """
    # Only one fault's samples are held at a time: there may be ten million rows of them.
    of: SamplesOf = samples if callable(samples) else lambda _: samples
    drawn, wants = [], []
    for verdict in verdicts:
        own = of(verdict.raw.get("permitted", ()))
        drawn.append(_over_time(verdict, spec, own))
        wants.append(wanted(verdict, own) if files else [])
    witnesses = look_up(files, verdicts, wants, spec)
    parts = [_summary(verdicts)]
    for place, verdict in enumerate(verdicts):
        parts.append(_section(place, verdict, spec, drawn[place], witnesses[place], bool(files), jaeger, len(verdicts)))
    parts.append(f"<h2>The spec as used</h2>{spec_text(spec)}<h3>To repeat this verdict</h3>{repeated(command, files, spec)}")  # fmt: skip
    heading = f"{spoken(gravest(verdicts).kind)}: containment report" if verdicts else "containment report"
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{escape(heading)}</title><style>{STYLE}</style><body><main>{''.join(parts)}</main></body></html>\n"
    )


def write_reports(
    path: Path,
    verdicts: Sequence[Verdict],
    spec: Spec,
    samples: SamplesOf | Sequence[Samples],
    *,
    files: Sequence[Path] = (),
    jaeger: str = "",
    command: str = "",
) -> list[Path]:
    """Write :func:`render` of all verdicts to `path`: one file, a section for each fault.

    Raises:
        NotEnabledError: matplotlib is not installed.
        OSError: it cannot be written.
    """
    path.write_text(render(verdicts, spec, samples, files=files, jaeger=jaeger, command=command), "utf-8")
    return [path]


def _banner(verdict: Verdict, level: str = "p") -> str:
    sign, tone = VERDICTS[verdict.kind]
    beside = f" (beside it: {spoken(verdict.beside)})" if verdict.beside else ""
    return f'<div class="verdict {tone}"><{level}><b class={tone}>{sign} {spoken(verdict.kind)}{beside}</b></{level}><p>{escape(verdict.sentence)}</p></div>'


def _summary(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "<h1>Containment report</h1><p>There is no fault on the record, and none was judged.</p>"
    if len(verdicts) == 1:
        return "<h1>Containment report: did the failure stay where it should?</h1>"
    good = sum(it.kind == "contained" for it in verdicts)
    rows = []
    for place, it in enumerate(verdicts):
        sign, tone = VERDICTS[it.kind]
        at = f"<br><small>{when(it.fault.injected_ns)}</small>" if it.fault else ""
        rows.append(
            f"<tr><td class=n>{place + 1}</td><th scope=row><a href='#fault-{place + 1}'>{escape(title(it))}</a>{at}</th>"
            f"<td class='{tone} short'><b>{sign} {spoken(it.kind)}</b></td><td>{escape(it.sentence)}</td></tr>"
        )
    return (
        f"<h1>Containment report: {len(verdicts)} faults, {good} contained</h1><nav><table><caption>Did each failure stay where it "
        "should?</caption><thead><tr><th scope=col class=n>#</th><th scope=col>fault</th><th scope=col>verdict</th><th scope=col>in a sentence</th>"
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></nav>"
    )


def _over_time(verdict: Verdict, spec: Spec, samples: Sequence[Samples]) -> str:
    if verdict.windows is None:
        return ""
    worst = [it.stratum for it in verdict.cells if it.result == "harmed"]
    figures = []
    for slo in spec.slos:
        drawn = chart(slo, [it for it in samples if it.slo == slo.name], verdict.windows, worst)
        figures.append(f"<figure class=chart><figcaption><b>{escape(slo.name)}</b></figcaption>{drawn}</figure>")
    return "".join(figures)


def _section(place: int, verdict: Verdict, spec: Spec, drawn: str, witnesses: Sequence[Witness], looked: bool, jaeger: str, many: int) -> str:  # fmt: skip
    parts = [
        f"<h2>{place + 1}. {escape(title(verdict))}</h2>" if many > 1 else "",
        _banner(verdict),
        matrix(verdict, spec),
        facts(verdict),
    ]
    if verdict.invariants:
        parts += ["<h3>Invariants</h3>", invariants(verdict)]
    if verdict.windows is not None:
        parts += ["<h3>Traces that show it</h3>", _traces(verdict, witnesses, looked, jaeger)]
        parts += [
            "<h3>Over time</h3>",
            "<p class=dim>Lines mark the injection and the verified undo; the inside is drawn thick and red.</p>",
            drawn,
        ]
    parts.append("<h3>Recovery</h3>")
    if verdict.recoveries and verdict.windows is not None:
        acted = verdict.fault.effective_ns if verdict.fault and verdict.fault.valid else 0
        parts.append(f"<figure class=chart><figcaption class=dim>Pale: ill after the undo. Solid: between the last bad and the first good request. Hatched: the hold, which must be well. An arrow: not well when the looking ended.</figcaption>{timeline(verdict.recoveries, verdict.windows, acted)}</figure>")  # fmt: skip
        hidden = len(verdict.recoveries) - len(drawn_rows(verdict.recoveries))
        parts.append(f"<p class=dim>{hidden} more are only in the table.</p>" if hidden else "")
    parts.append(recoveries(verdict.recoveries))
    parts += ["<h3>Error budget</h3>", budget_table(burns(verdict, spec))]
    parts.append(certified(verdict))
    parts += ["<h3>Raw figures</h3>", raw_figures(verdict, spec), windows_table(verdict), source_figures(verdict)]
    return f'<section class=fault id="fault-{place + 1}">{"".join(parts)}</section>'


def _traces(verdict: Verdict, witnesses: Sequence[Witness], looked: bool, jaeger: str) -> str:
    if not looked:
        return "<p class=dim>This source keeps no traces.</p>"
    if not witnesses or verdict.windows is None:
        return "<p class=dim>None was found: no request ran during the fault.</p>"
    told = [waterfall(it, verdict.windows, jaeger) for it in witnesses]
    if not any("inside" in it.title for it in witnesses):
        told.insert(
            0,
            "<p class=dim>No request was recorded inside during the fault: whatever is inside did not answer, or did not record.</p>",
        )
    return "".join(told)
