"""A verdict as JSON (docs/verdict.schema.json), JUnit XML and Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from xml.sax.saxutils import quoteattr

from aiobs.chaos.containment.exit_codes import exit_code
from aiobs.chaos.containment.model import Verdict

FORMAT = 1
"""Version of the JSON; another number where a reader of the old one would be misled."""


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


def as_junit(verdicts: Sequence[Verdict]) -> str:
    """A test suite for each fault, a case for each outside cell and each recovery, and one for the verdict."""
    suites = []
    for verdict in verdicts:
        cases: list[tuple[str, str, bool, str]] = [
            ("verdict", verdict.kind, verdict.kind == "contained", verdict.sentence)
        ]
        cases += [
            (cell.stratum, cell.slo, cell.result == "held", cell.reason)
            for cell in verdict.cells
            if cell.side == "outside" and cell.required
        ]
        cases += [
            (f"recovery {it.stratum}", it.slo, not (it.censored or it.relapse or it.unseen), it.reason)
            for it in verdict.recoveries
        ]
        body = "".join(
            f"<testcase classname={quoteattr(group)} name={quoteattr(name)}>"
            + ("" if fine else f"<failure message={quoteattr(why)}/>") + "</testcase>\n"
            for group, name, fine, why in cases
        )  # fmt: skip
        failed = sum(not case[2] for case in cases)
        name = f"containment {verdict.fault.kind}" if verdict.fault else "containment"
        suites.append(
            f'<testsuite name={quoteattr(name)} tests="{len(cases)}" failures="{failed}">\n{body}</testsuite>\n'
        )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n{"".join(suites)}</testsuites>\n'


def as_markdown(verdict: Verdict) -> str:
    """The verdict for a pull request."""
    lines = [
        f"**{verdict.kind.replace('_', ' ')}** - {verdict.sentence}",
        "",
        "| boundary | SLO | side | result | worse by | bounds | margin |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {cell.stratum} | {cell.slo} | {cell.side} | {cell.result.replace('_', ' ')} | {cell.estimate:.4g} | {cell.low:.4g} to {cell.high:.4g} | {cell.margin:g} |".replace("inf", "∞")
        for cell in verdict.cells
    ]  # fmt: skip
    lines += ["", *[f"- {it.slo} of {it.stratum}: {it.reason}" for it in verdict.recoveries]]
    return "\n".join(lines) + "\n"
