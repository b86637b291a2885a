"""Each SLO over the experiment: a line for each stratum, the windows named and shaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiobs.chaos.containment.model import Samples, Slo, Windows
from aiobs.chaos.containment.report.plotting import FAULT, INK, svg

BINS = 120
"""Points a line has at most, however many spans there are."""
LINES = 7
"""Lines with a name; so many more are drawn faintly, for the crowd they stand in."""
FAINT = 8
AXES = {"ratio": "% bad", "threshold": "% too slow", "mean": "mean", "rate": "good a second", "rare": "events"}
_STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 3)))
_COLORS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b")
"""Okabe and Ito's, told apart by who sees few colours."""


def chart(slo: Slo, samples: Sequence[Samples], windows: Windows, worst: Sequence[str] = ()) -> str:
    """An ``<svg>`` of `slo`; strata in `worst` are sure to be named.

    Raises:
        NotEnabledError: matplotlib is not installed.
    """
    drawn = [it for it in samples if len(it.start_ns)]
    drawn.sort(key=lambda it: (it.side != "inside", it.stratum not in worst))

    def draw(axes: Any) -> None:
        shade(axes, windows)
        outside = 0
        for place, it in enumerate(drawn[: LINES + FAINT]):
            at, line = _series(slo, it, windows)
            if place >= LINES:
                axes.plot(at, line, lw=0.7, color=INK, alpha=0.5, label="others" if place == LINES else None)
                continue
            if it.side == "inside":
                axes.plot(at, line, lw=2.2, color=FAULT, alpha=0.9, label=f"{it.stratum} (inside)")
                continue
            axes.plot(at, line, lw=1.4, color=_COLORS[outside % 6], ls=_STYLES[outside % 6], label=it.stratum)
            outside += 1
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds since the injection")
        axes.set_ylabel(
            AXES[slo.kind]
            if slo.kind != "mean"
            else f"mean {slo.indicator.value}{' (s)' if slo.indicator.value == 'duration' else ''}"
        )
        if drawn:
            axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))

    named = ", ".join(it.stratum for it in drawn[:LINES])
    return svg(draw, (9.4, 2.5), f"{slo.name} over time, a line each for {named}", slo.name + windows.fault_id)


def shade(axes: Any, windows: Windows) -> None:
    """The windows, shaded and named, and lines where the fault was injected and its undo verified."""
    zero = windows.injected_ns
    shades = ((windows.baseline, "#4a90d9", "baseline"), (windows.fault, FAULT, "fault"), (windows.recovery, "#5cb85c", "recovery"))  # fmt: skip
    for (begin, until), color, name in shades:
        axes.axvspan((begin - zero) / 1e9, (until - zero) / 1e9, color=color, alpha=0.12, lw=0)
        axes.text(
            (begin + until - 2 * zero) / 2e9, 1.01, name, color=INK, fontsize=8, ha="center", va="bottom",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    for moment in (windows.injected_ns, windows.undone_ns):
        axes.axvline((moment - zero) / 1e9, color=FAULT, lw=1)


def _series(slo: Slo, it: Samples, windows: Windows) -> tuple[Any, Any]:
    import numpy as np

    first, end = windows.whole
    edges = np.linspace(first, end, BINS + 1)
    at = (edges[:-1] + edges[1:]) / 2e9 - windows.injected_ns / 1e9
    count, _ = np.histogram(it.start_ns, edges)
    if slo.kind == "mean":
        known = ~np.isnan(it.value)
        total, _ = np.histogram(it.start_ns[known], edges, weights=it.value[known])
        count, _ = np.histogram(it.start_ns[known], edges)
    else:
        total, _ = np.histogram(it.start_ns[it.bad.astype(bool)], edges)
    if slo.kind == "rare":
        return at, total.astype(float)
    if slo.kind == "rate":
        return at, (count - total) / ((end - first) / 1e9 / BINS)
    with np.errstate(invalid="ignore", divide="ignore"):
        line = total / count
    return at, line if slo.kind == "mean" else 100 * line
