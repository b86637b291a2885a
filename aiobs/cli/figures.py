"""Numbers as people read them: three digits that matter, and the unit that fits."""

from __future__ import annotations

from collections.abc import Sequence

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def duration(seconds: float | None) -> str:
    """``1.23 ms``, ``45.6 s``, ``3 min 20 s``, ``2 h 05 min``; "" for None."""
    if seconds is None:
        return ""
    if seconds < 0:
        return "-" + duration(-seconds)
    if round(seconds) >= 3600:
        minutes = round(seconds / 60)
        return f"{minutes // 60} h {minutes % 60:02} min"
    if seconds >= 99.95:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02} s"
    for scale, unit in _TIMES:
        # 0.9996 ms reads 1.00 ms, not 1000 µs.
        if seconds >= scale * 0.9995:
            return f"{three_digits(seconds / scale)} {unit}"
    return "0 s" if seconds == 0 else "< 1 ns"


def size(count: float | None) -> str:
    """``812 B``, ``1.50 MiB``; "" for None."""
    if count is None:
        return ""
    for scale, unit in _SIZES:
        if count >= scale * 0.9995:
            return f"{three_digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def three_digits(value: float) -> str:
    """`value` with three significant digits, never in exponent form up to a million."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    magnitude = abs(value)
    if magnitude == 0:
        return "0"
    if magnitude >= 1e6 or magnitude < 1e-4:
        return f"{value:.3g}"
    for digits, top in enumerate((99.95, 9.995, 0.9995, 0.09995, 0.009995, 0.0009995)):
        if magnitude >= top:
            return f"{value:,.{digits}f}"
    return f"{value:.6f}"


def count(number: int, one: str, many: str = "") -> str:
    """``1 step``, ``2,310 steps``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share(part: float, whole: float) -> str:
    """``12.3 %``; "" where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole > 0 else ""


def median(values: Sequence[float]) -> float:
    """The middle of sorted or unsorted `values`, which are not empty."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
