"""A verdict as JSON (docs/verdict.schema.json), JUnit XML and Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from aiobs.chaos.containment.amounts import number, worse
from aiobs.chaos.containment.exit_codes import exit_code
from aiobs.chaos.containment.model import Cell, Verdict
from aiobs.chaos.containment.signs import RESULTS, VERDICTS, absent, spoken, state

FORMAT = 1
"""Version of the JSON; another number where a reader of the old one would be misled."""

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot hold; names of units come from telemetry, which can."""


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON has it: infinite figures are null."""
    found: dict[str, Any] = _finite({"format": FORMAT, "exit_code": exit_code(verdict), **asdict(verdict)})
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def title(verdict: Verdict) -> str:
    """The fault in a few words."""
    fault = verdict.fault
    if fault is None:
        return "the fault"
    on = fault.boundary or fault.target
    return f"{fault.kind} on {on}" if on else fault.kind


def amount(verdict: Verdict, cell: Cell) -> str:
    """By how much a cell got worse, with its bounds and margin; "" where nothing was measured."""
    if not cell.n_fault or cell.result in ("no_data", "baseline"):
        return ""
    kind = verdict.raw.get("kinds", {}).get(cell.slo)
    told = [worse(kind, it) if kind else number(it) for it in (cell.estimate, cell.low, cell.high)]
    margin = worse(kind, cell.margin, sign=False) if kind else number(cell.margin)
    return f"{told[0]} ({told[1]} … {told[2]}), margin {margin}"


def as_junit(verdicts: Sequence[Verdict]) -> str:
    """A test suite for each fault: a case for the verdict, for each boundary and objective, and for each recovery."""
    suites = []
    for verdict in verdicts:
        cases = [_case("verdict", "contained", "" if verdict.kind == "contained" else verdict.sentence)]
        for cell in verdict.cells:
            fine = cell.result == "held" or (cell.side == "inside" and cell.stratum not in verdict.strata)
            skip = absent(cell) and verdict.kind != "inconclusive"
            why = "" if fine else f"{cell.reason}\n{spoken(cell.result)}: {amount(verdict, cell)}".rstrip(": ")
            told = not cell.required and not fine
            cases.append(_case(cell.stratum, cell.slo, why, "never measured" if skip else f"told only: {cell.reason}" if told else ""))  # fmt: skip
        cases += [_case("invariant", it.name, "" if it.result == "kept" else it.reason) for it in verdict.invariants]
        for it in verdict.recoveries:
            ill = it.censored or it.relapse or it.unseen
            cases.append(_case(f"recovery of {it.stratum}", it.slo, it.reason if ill else ""))
        failed, skipped = (sum(f"<{what} " in it for it in cases) for what in ("failure", "skipped"))
        name = quoteattr(_clean(f"containment: {title(verdict)}"))
        suites.append(
            f'<testsuite name={name} tests="{len(cases)}" failures="{failed}" errors="0" skipped="{skipped}">\n{"".join(cases)}'
            f"<system-out>{escape(_clean(verdict.sentence))}</system-out>\n</testsuite>\n"
        )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n{"".join(suites)}</testsuites>\n'


def _case(group: str, name: str, why: str, skipped: str = "") -> str:
    head = f"<testcase classname={quoteattr(_clean(group))} name={quoteattr(_clean(name))}"
    if skipped:
        return f"{head}><skipped message={quoteattr(_clean(skipped))}/></testcase>\n"
    if not why:
        return f"{head}/>\n"
    return f"{head}><failure message={quoteattr(_clean(why.partition(chr(10))[0]))}>{escape(_clean(why))}</failure></testcase>\n"


def _clean(text: str) -> str:
    return _NO_XML.sub("�", text)


def as_markdown(verdict: Verdict, link: str = "") -> str:
    """The verdict for a pull request: the sentence, the matrix, what did not recover; `link` leads to the report."""
    sign = VERDICTS[verdict.kind][0]
    lines = [f"**{sign} {spoken(verdict.kind)}: {_plain(title(verdict))}** - {_plain(verdict.sentence)}", ""]
    asked = list(dict.fromkeys(it.slo for it in verdict.cells))
    of = {(it.stratum, it.slo): it for it in verdict.cells}
    rows = [["boundary", *asked]]
    for side, told in (("outside", ""), ("inside", " (may be hurt)")):
        strata = dict.fromkeys(it.stratum for it in verdict.cells if it.side == side)
        rows += [[name + told, *[_short(verdict, of.get((name, slo))) for slo in asked]] for name in strata]
    if verdict.cells:
        lines += [*_aligned([[_plain(it) for it in row] for row in rows]), ""]
    lines += [f"- invariant {it.result}: {_plain(it.name)}: {_plain(it.reason)}" for it in verdict.invariants]
    late = [it for it in verdict.recoveries if state(it)[0] != "never ill"]
    lines += [f"- {state(it)[0]}: {_plain(it.slo)} of {_plain(it.stratum)}: {_plain(it.reason)}" for it in late]
    lines += [f"\n[The whole report]({link})"] if link else []
    return "\n".join(lines).rstrip() + "\n"


def _short(verdict: Verdict, cell: Cell | None) -> str:
    if cell is None or absent(cell):
        return "not measured"
    sign, word, _ = RESULTS[cell.result]
    told = amount(verdict, cell)
    return f"{sign} {word}{f', {told}' if told else ''}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up in a terminal too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(it.ljust(width) for it, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _plain(text: str) -> str:
    """`text` so that it cannot end a cell or a line, or become a tag, a mention or an image."""
    return re.sub(r"(?<!\w)@", "@\u200b", re.sub(r"([|<`\[\]])", r"\\\1", " ".join(_clean(text).split())))
