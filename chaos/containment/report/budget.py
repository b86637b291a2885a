"""What the fault cost of each error budget, and what a fault that lasts as outages do would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from aiobs.chaos.containment.amounts import number
from aiobs.chaos.containment.model import Spec, Verdict
from aiobs.chaos.containment.report.words import seconds, share

OUTAGE_S = 3600.0
"""A realistic outage; an experiment is much shorter, and burns next to nothing of 28 days."""
ROWS = 30
"""Rows shown, the worst."""
SHARES = ("ratio", "threshold")
"""Kinds of which a share of bad ones can be said, which is what a budget is spent by."""
ALERTS = ((14.4, "pages within minutes"), (6.0, "pages within the hour"), (1.0, "opens a ticket"))
"""The usual burn-rate alerts (1 h and 5 min, 6 h and 30 min, 3 d and 6 h)."""


@dataclass(frozen=True)
class Burn:
    """One stratum's error budget.

    Attributes:
        before, during: burn rates: 1 spends exactly the budget in its window.
        spent: share of the whole budget that the fault window took.
        outage: the same, had it lasted :data:`OUTAGE_S`.
        gone_s: seconds at that rate after which nothing is left; inf: never.
    """

    stratum: str
    slo: str
    side: str
    before: float
    during: float
    spent: float
    outage: float
    gone_s: float

    @property
    def alert(self) -> str:
        """Which of the usual alerts would go off."""
        return next((says for rate, says in ALERTS if self.during >= rate), "no alert")


def burns(verdict: Verdict, spec: Spec) -> Sequence[Burn]:
    """The budget of each stratum and objective that has one and carried traffic, the worst first."""
    slos = {slo.name: slo for slo in spec.slos}
    if verdict.windows is None:
        return []
    length = (verdict.windows.fault[1] - verdict.windows.fault[0]) / 1e9
    found = []
    for it in verdict.cells:
        slo = slos.get(it.slo)
        if (
            slo is None
            or slo.objective is None
            or slo.kind not in SHARES
            or not it.n_fault
            or it.result in ("no_data", "baseline")
        ):
            continue
        promised = 1 - slo.objective
        whole = slo.budget_days * 86400
        before, during = it.baseline / promised, it.fault / promised
        found.append(
            Burn(
                it.stratum, it.slo, it.side, before, during, during * length / whole, during * OUTAGE_S / whole,
                whole / during if during > 0 else float("inf"),
            )
        )  # fmt: skip
    return sorted(found, key=lambda it: -it.during)


def budget_table(found: Sequence[Burn]) -> str:
    """The table, or a sentence where no objective has a budget."""
    if not found:
        return "<p class=dim>No objective with an error budget carried traffic during the fault.</p>"
    spent = [it for it in found if it.during][:ROWS]
    rows = "".join(
        f"<tr><th scope=row>{escape(it.stratum)}<br><small>{it.side}</small></th><td>{escape(it.slo)}</td>"
        f"<td class=n>{number(it.before)} → {number(it.during)}</td><td class=n>{share(it.spent)}</td><td class=n>{share(it.outage)}</td>"
        f"<td class=n>{'never' if it.gone_s == float('inf') else seconds(it.gone_s)}</td><td>{it.alert}</td></tr>"
        for it in spent
    )
    idle = len(found) - len(spent)
    rest = (
        f"<p class=dim>{idle} more spent {'less' if len(spent) == ROWS else 'nothing'} during the fault.</p>"
        if idle
        else ""
    )
    if not rows:
        return "<p>No error budget was spent during the fault.</p>"
    return (
        "<div class=wide><table><caption>A burn rate of 1 spends the error budget exactly in its window. A short fault spends next to "
        "nothing of it, so what counts is the rate, and what an outage of an hour would have spent.</caption>"
        "<thead><tr><th scope=col>boundary</th><th scope=col>objective</th><th scope=col class=n>burn rate, before → during</th>"
        "<th scope=col class=n>spent by this fault</th><th scope=col class=n>by 1 h of it</th><th scope=col class=n>all gone after</th>"
        f"<th scope=col>usual alerts</th></tr></thead><tbody>{rows}</tbody></table></div>{rest}"
    )
