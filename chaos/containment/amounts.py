"""Degradations as a person writes them: in the unit of the margin, and with no more digits than mean something."""

from __future__ import annotations

from math import isfinite

from aiobs.chaos.containment.model import Kind

_UNITS: dict[str, tuple[str, str, float]] = {
    "ratio": ("pp", "percentage points", 100.0),
    "threshold": ("pp", "percentage points", 100.0),
    "mean": ("%", "% of the baseline", 100.0),
    "rate": ("%", "% of the baseline", 100.0),
    "rare": ("events", "events", 1.0),
}


def number(value: float) -> str:
    """Three digits that mean something; ``∞`` where there is no bound, ``–`` where there is no figure."""
    if not isfinite(value):
        return "–" if value != value else "∞" if value > 0 else "−∞"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    text = f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"
    return text.replace("-", "−")


def worse(kind: Kind, value: float, sign: bool = True) -> str:
    """A degradation for a table: points of a share, a share of the baseline, or events; `sign` puts a plus before it."""
    text = _scaled(kind, value)
    plus = "+" if sign and value > 0 and isfinite(value) and text != "0" else ""
    return f"{plus}{text}{f' {_UNITS[kind][0]}' if isfinite(value) else ''}"


def in_words(kind: Kind, value: float) -> str:
    """The same for a sentence."""
    return f"{_scaled(kind, value)} {_UNITS[kind][1]}" if isfinite(value) else number(value)


def _scaled(kind: Kind, value: float) -> str:
    scaled = value * _UNITS[kind][2]
    if not isfinite(scaled) or abs(scaled) >= 100:
        return number(scaled)
    # What is below the last digit is nothing: no "-0.0".
    whole = abs(scaled - round(scaled)) < 1e-9
    return (f"{scaled:.0f}" if whole else f"{scaled:.1f}").replace("-", "−") if abs(scaled) >= 0.05 else "0"
