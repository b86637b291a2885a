"""Figures of matplotlib as inline SVG that follows the page: its text colour, its font, no names twice. Its only home."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from io import StringIO
from typing import Any

from aiobs.errors import NotEnabledError

INK = "#7f7f81"
"""Stands for the page's own text colour."""
FAULT = "#d9534f"
_PATH = re.compile(r' d="[^"]+"')
_LONG = re.compile(r"(\d+\.\d)\d+")


def svg(draw: Callable[[Any], None], size: tuple[float, float], label: str, mark: str) -> str:
    """An ``<svg>`` of what `draw` puts on axes.

    Args:
        label: what is to be seen, for who cannot see it.
        mark: makes the names inside differ from those of other figures on the page.

    Raises:
        NotEnabledError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise NotEnabledError("the report", "containment") from None
    # Text stays text: smaller, searchable, in the page's font.
    with rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": mark,
            "font.size": 9,
            "font.family": "sans-serif",
            "hatch.linewidth": 0.5,
        }
    ):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        axes.tick_params(colors=INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        for name, spine in axes.spines.items():
            spine.set_color(INK)
            spine.set_visible(name in ("left", "bottom"))
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = "<svg" + out.getvalue().partition("<svg")[2]
    # A tenth of a point is more than any eye or printer tells apart; six decimals are most of the size.
    drawn = _PATH.sub(lambda path: _LONG.sub(r"\1", path[0]), drawn)
    drawn = drawn.replace(INK, "currentColor").replace("font: 9px sans-serif", "font-size:9px")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1).strip()
