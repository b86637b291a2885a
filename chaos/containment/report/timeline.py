"""Recovery drawn: for each SLI the interval in which it was well again, on the time axis of the fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiobs.chaos.containment.model import Recovery, Windows
from aiobs.chaos.containment.report.plotting import FAULT, INK, svg
from aiobs.chaos.containment.signs import state

ROWS = 24
"""Rows drawn; those that were never ill come last, and are counted where they do not fit."""
_TONES = {"good": "#009e73", "bad": "#d55e00", "open": "#b58900"}


def drawn_rows(found: Sequence[Recovery]) -> list[Recovery]:
    """What the timeline shows of `found`, the gravest first."""
    rank = {"relapsed": 0, "not recovered": 1, "not seen": 2, "recovered": 3, "never ill": 4}
    return sorted(found, key=lambda it: (rank[state(it)[0]], it.side != "inside", -it.first_good_s))[:ROWS]


def timeline(found: Sequence[Recovery], windows: Windows, effective_ns: int = 0) -> str:
    """An ``<svg>``; `effective_ns` is when the fault was first seen to act.

    Raises:
        NotEnabledError: matplotlib is not installed.
    """
    rows = drawn_rows(found)
    undone = (windows.undone_ns - windows.injected_ns) / 1e9
    end = (windows.recovery[1] - windows.injected_ns) / 1e9

    def draw(axes: Any) -> None:
        axes.axvspan(0, undone, color=FAULT, alpha=0.12, lw=0)
        marks = [(0.0, "injected", "right"), (undone, "undo verified", "center")]
        if effective_ns:
            marks.append(((effective_ns - windows.injected_ns) / 1e9, " seen to act", "left"))
        for at, name, side in marks:
            axes.axvline(at, color=FAULT, lw=1, ls="-" if name != " seen to act" else ":")
            axes.text(at, 1.01, name, color=INK, fontsize=8, ha=side, va="bottom", transform=axes.get_xaxis_transform())
        axes.axvline(end, color=INK, lw=0.8, ls=":")
        axes.text(
            end,
            1.01,
            "looking ended",
            color=INK,
            fontsize=8,
            ha="right",
            va="bottom",
            transform=axes.get_xaxis_transform(),
        )
        for place, it in enumerate(rows):
            _row(axes, place, it, undone, end, windows.hold_ns / 1e9)
        axes.set_yticks(range(len(rows)), [f"{it.slo} of {it.stratum}" for it in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(min(-0.03 * end, 0), end * 1.04)
        axes.set_xlabel("seconds since the injection")

    told = "; ".join(f"{it.slo} of {it.stratum}: {it.reason}" for it in rows)
    return svg(draw, (9.4, 1.0 + 0.28 * max(len(rows), 1)), f"Recovery timeline. {told}", f"recovery{windows.fault_id}")


def _row(axes: Any, place: int, it: Recovery, undone: float, end: float, hold: float) -> None:
    said, tone = state(it)
    color = _TONES[tone]
    bad, good = undone + it.last_bad_s, undone + it.first_good_s
    if said == "never ill":
        axes.plot([undone], [place], marker="o", ms=4, color=color)
        _beside(axes, undone, place, "never ill after the undo")
        return
    if it.unseen:
        _beside(axes, undone, place, "too few requests after the undo to tell")
        return
    # Ill up to the last bad request, well from the first good one, and nobody knows about the time between.
    axes.barh(place, bad - undone, left=undone, height=0.5, color=color, alpha=0.25, lw=0)
    if it.censored:
        axes.annotate("", (end * 1.03, place), (bad, place), arrowprops={"arrowstyle": "->", "color": color, "lw": 1.5})
        _beside(axes, undone, place, said)
        return
    axes.plot([bad, good], [place, place], marker="|", ms=9, mew=1.5, lw=3, color=color)
    held = min(hold, max(end - good, 0))
    axes.barh(place, held, left=good, height=0.5, facecolor="none", edgecolor=color, hatch="////", lw=0.6)
    told = f"{it.last_bad_s:.2f} … {it.first_good_s:.2f} s{', relapsed' if it.relapse else ''}"
    right = good + held > 0.8 * end
    _beside(axes, undone if right else good + held, place, told, -1 if right else 1)


def _beside(axes: Any, at: float, place: int, text: str, side: int = 1) -> None:
    axes.annotate(
        text, (at, place), xytext=(6 * side, 0), textcoords="offset points", color=INK, fontsize=8, va="center",
        ha="left" if side > 0 else "right",
    )  # fmt: skip
