"""What the verdict rests on: what was done and to whom, what is certified, figures, windows, the spec, how to repeat it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from aiobs.chaos.containment.amounts import number, worse
from aiobs.chaos.containment.model import Kind, Recovery, Spec, Verdict
from aiobs.chaos.containment.report.words import figure, seconds, share, when
from aiobs.chaos.containment.signs import absent, state
from aiobs.chaos.fault import fault_kinds

WELL = 30


def facts(verdict: Verdict) -> str:
    """The fault in a few lines: what, on whom, when, for how long, seen to act or not, and what was hurt."""
    fault, windows = verdict.fault, verdict.windows
    rows: list[tuple[str, str]] = []
    if fault is not None:
        rows.append(("Fault", f"{fault.kind}{f' on {fault.target}' if fault.target else ''}"))
        held = f", held {seconds((fault.undone_ns - fault.injected_ns) / 1e9)}" if fault.undone_ns else ""
        rows.append(("Injected", f"{when(fault.injected_ns)}{held}"))
        acted = {True: f"yes, after {seconds(max(fault.effective_ns - fault.injected_ns, 0) / 1e9)}", False: "no", None: "nothing says so"}  # fmt: skip
        rows.append(("Seen to act", acted[fault.valid]))
        if fault.residue:
            rows.append(("Left behind", "; ".join(fault.residue)))
    elif windows is not None:
        rows.append(("Fault", f"windows given by hand; begun {when(windows.injected_ns)}, for {seconds((windows.undone_ns - windows.injected_ns) / 1e9)}"))  # fmt: skip
    rows.append(("May hurt", ", ".join(verdict.raw.get("permitted", ())) or "nothing"))
    if any(it.side == "outside" for it in verdict.cells):
        rows.append(
            (
                "Observed radius",
                f"{share(verdict.observed)} of the requests outside were in boundaries not shown unharmed",
            )
        )
    listed = "".join(f"<dt>{name}</dt><dd>{escape(told)}</dd>" for name, told in rows)
    trace = f"<dt>Trace</dt><dd><code class=id>{escape(fault.trace_id)}</code></dd>" if fault and fault.trace_id else ""
    return f"<dl class=facts>{listed}{trace}</dl>"


def certified(verdict: Verdict) -> str:
    """What this run shows and what it does not, and what this kind of fault stands for."""
    kind = fault_kinds().get(verdict.fault.kind) if verdict.fault else None
    yes, no = list(verdict.certifies), list(verdict.does_not_certify)
    never = [it for it in verdict.cells if it.side == "outside" and absent(it)]
    gone = {f"{it.slo} of {it.stratum}: {it.reason}" for it in never}
    no = [it for it in no if it not in gone]
    for slo in dict.fromkeys(it.slo for it in never):
        no.append(f"{slo} of {', '.join(it.stratum for it in never if it.slo == slo)}: not measured there")
    if kind and kind.certifies:
        yes.append(f"The fault stands for {kind.certifies}")
    if kind and kind.limits:
        no.append(f"The fault does not stand for {kind.limits}")
    return f"<h3>Certified</h3>{_list(yes)}<h3>Not certified</h3>{_list(no)}"


def invariants(verdict: Verdict) -> str:
    """What had to hold of the work itself, and whether it did."""
    signs = {"kept": ("✓", "good"), "broken": ("✗", "bad"), "unseen": ("–", "open")}
    rows = []
    for it in verdict.invariants:
        sign, tone = signs[it.result]
        examples = f"<br><small>such as {escape(', '.join(it.examples))}</small>" if it.examples else ""
        rows.append(
            f"<tr><th scope=row>{escape(it.name)}<br><small>{it.kind}</small></th><td class={tone}><b>{sign} {it.result}</b></td>"
            f"<td class=n>{it.looked:,}</td><td class=n>{it.broken:,}</td><td>{escape(it.reason)}{examples}</td></tr>"
        )
    heads = (("invariant", ""), ("result", ""), ("looked at", "n"), ("broke it", "n"), ("why", ""))
    return table("What must hold of the work itself, inside as well as outside.", heads, rows)


def recoveries(found: Sequence[Recovery]) -> str:
    """A row for each SLI; of those that were never ill :data:`WELL` at most."""
    rows = []
    well = [it for it in found if state(it)[0] == "never ill"]
    shown = {id(it) for it in well[:WELL]} | {id(it) for it in found if state(it)[0] != "never ill"}
    for it in (it for it in found if id(it) in shown):
        said, tone = state(it)
        interval = "" if it.unseen or said == "never ill" else f"{it.last_bad_s:.2f} … {it.first_good_s:.2f} s"
        rows.append(
            f"<tr><th scope=row>{escape(it.stratum)}<br><small>{it.side}</small></th><td>{escape(it.slo)}</td>"
            f"<td class={tone}><b>{said}</b></td><td class=n>{interval}</td><td>{escape(it.reason)}</td></tr>"
        )
    heads = (("boundary", ""), ("objective", ""), ("state", ""), ("after the undo", "n"), ("why", ""))
    more = f"<p class=dim>{len(found) - len(shown)} more were never ill.</p>" if len(shown) < len(found) else ""
    return (
        table("Last bad and first good request after the verified undo; it was well again in between.", heads, rows)
        + more
    )


def raw_figures(verdict: Verdict, spec: Spec) -> str:
    """Every number a test was made from."""
    kinds: dict[str, Kind] = {slo.name: slo.kind for slo in spec.slos}
    rows = []
    for it in verdict.cells:
        if absent(it):
            continue
        kind = kinds.get(it.slo, "ratio")
        rows.append(
            f"<tr><th scope=row>{escape(it.stratum)}<br><small>{it.side}</small></th><td>{escape(it.slo)}</td>"
            f"<td class=n>{it.n_baseline:,}</td><td class=n>{it.n_fault:,}</td><td class=n>{number(it.n_eff)}</td>"
            f"<td class=n>{figure(kind, it.baseline)}</td><td class=n>{figure(kind, it.fault)}</td>"
            f"<td class=n>{worse(kind, it.estimate)}</td><td class=n>{worse(kind, it.low)}</td><td class=n>{worse(kind, it.high)}</td>"
            f"<td class=n>{worse(kind, it.margin, sign=False)}</td><td class=n>{number(it.p_harm)}</td>"
            f"<td>{escape(it.method)}</td></tr>"
        )
    heads = (
        ("boundary", ""), ("objective", ""), ("n before", "n"), ("n during", "n"), ("independent", "n"), ("before", "n"),
        ("during", "n"), ("worse by", "n"), ("at least", "n"), ("at most", "n"), ("margin", "n"), ("p of harm", "n"), ("test", ""),
    )  # fmt: skip
    alpha = verdict.raw.get("alpha", spec.alpha)
    caption = f"Bounds are one-sided, each test at α = {alpha:g}. Independent: the effective sample size of the weaker window; below 30 nothing is decided."
    left = len(verdict.cells) - len(rows)
    more = f"<p class=dim>{left} more without a single span are left out.</p>" if left else ""
    return table(caption, heads, rows, "wide-table") + more


def windows_table(verdict: Verdict) -> str:
    """The windows, by the clock and from the injection."""
    windows = verdict.windows
    if windows is None:
        return ""
    rows = []
    for name, (begin, end) in (("baseline", windows.baseline), ("fault", windows.fault), ("recovery", windows.recovery)):  # fmt: skip
        first, last = ((moment - windows.injected_ns) / 1e9 for moment in (begin, end))
        rows.append(f"<tr><th scope=row>{name}</th><td>{when(begin)}</td><td class=n>{first:+.2f} s</td><td class=n>{last:+.2f} s</td><td class=n>{last - first:.2f} s</td></tr>")  # fmt: skip
    heads = (("window", ""), ("begins", ""), ("from", "n"), ("to", "n"), ("length", "n"))
    caption = f"From the injection. What lies between is guard, looked at in no window; {windows.hold_ns / 1e9:.2f} s must be well to count as recovered."
    return table(caption, heads, rows)


def source_figures(verdict: Verdict) -> str:
    """What the telemetry held, in a sentence."""
    raw = verdict.raw
    told = [f"{raw['spans']:,} spans" if "spans" in raw else ""]
    told.append(f"{raw['duplicates']:,} copies left out" if raw.get("duplicates") else "")
    told += [str(it) for it in raw.get("trouble", ())]
    return f"<p class=dim>{escape('; '.join(it for it in told if it))}.</p>" if any(told) else ""


def spec_text(spec: Spec) -> str:
    """The spec as used: its file's text, else what it came to."""
    try:
        text = Path(spec.path).read_text("utf-8") if spec.path else ""
    except (OSError, ValueError):
        text = ""
    if not text:
        text = json.dumps(asdict(spec), indent=1, default=str)
    return f"<pre>{escape(text.rstrip())}</pre>"


def repeated(command: str, files: Sequence[Path], spec: Spec) -> str:
    """The command that gives the verdict again: `command`, or what `files` and the spec's path make of it."""
    if not command and files and spec.path:
        folder = files[0].parent if len(files) > 1 or files[0].name.startswith("traces") else files[0]
        command = shlex.join(["aiobs", "verdict", str(folder), "--spec", spec.path])
    return (
        f"<pre>{escape(command)}</pre>" if command else "<p class=dim>It was judged in Python; there is no command.</p>"
    )


def table(caption: str, heads: Sequence[tuple[str, str]], rows: Sequence[str], kind: str = "") -> str:
    """A table with a caption; each head has the class of its column."""
    if not rows:
        return "<p class=dim>There are none.</p>"
    head = "".join(f'<th scope=col class="{of}">{name}</th>' for name, of in heads)
    return (
        f'<div class=wide><table class="{kind}"><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(it)}</li>' for it in lines)}</ul>" if lines else "<p class=dim>Nothing.</p>"
