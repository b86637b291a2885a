"""Time series as SVG: each SLO over the experiment, its windows shaded. The home of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from aiobs.chaos.containment.model import Samples, Slo, Windows
from aiobs.errors import NotEnabledError

BINS = 120
"""Points a line has at most, however many spans there are."""
_INK = "#808080"


def chart(slo: Slo, samples: Sequence[Samples], windows: Windows) -> str:
    """An ``<svg>`` of `slo`: a line for each stratum, the inside dashed.

    Raises:
        NotEnabledError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NotEnabledError("the report", "containment") from None
    import numpy as np

    first, end = windows.whole
    edges = np.linspace(first, end, BINS + 1)
    at = (edges[:-1] + edges[1:]) / 2e9 - windows.injected_ns / 1e9
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    shades = ((windows.baseline, "#4a90d9"), (windows.fault, "#d9534f"), (windows.recovery, "#5cb85c"))
    for (begin, until), color in shades:
        axes.axvspan(
            (begin - windows.injected_ns) / 1e9, (until - windows.injected_ns) / 1e9, color=color, alpha=0.12, lw=0
        )
    for moment in (windows.injected_ns, windows.undone_ns):
        axes.axvline((moment - windows.injected_ns) / 1e9, color="#d9534f", lw=1)
    drawn = [it for it in samples if len(it.start_ns)]
    for it in drawn:
        count, _ = np.histogram(it.start_ns, edges)
        if slo.kind == "mean":
            known = ~np.isnan(it.value)
            total, _ = np.histogram(it.start_ns[known], edges, weights=it.value[known])
            count, _ = np.histogram(it.start_ns[known], edges)
        else:
            total, _ = np.histogram(it.start_ns[it.bad.astype(bool)], edges)
        per_second = (end - first) / 1e9 / BINS
        with np.errstate(invalid="ignore", divide="ignore"):
            line = (count - total) / per_second if slo.kind == "rate" else total / count
        if slo.kind == "rare":
            line = total.astype(float)
        axes.plot(at, line, lw=1.4, ls="--" if it.side == "inside" else "-", label=f"{it.stratum} ({it.side})")
    axes.set_xlabel("seconds since the injection", color=_INK)
    axes.set_ylabel(AXES[slo.kind], color=_INK)
    axes.tick_params(colors=_INK)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    if drawn:
        axes.legend(fontsize=8, frameon=False, labelcolor=_INK, loc="upper left", bbox_to_anchor=(1, 1))
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue().partition("<svg")[1] + out.getvalue().partition("<svg")[2]


AXES = {"ratio": "share bad", "threshold": "share too slow", "mean": "mean", "rate": "good a second", "rare": "events"}
