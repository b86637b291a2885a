"""The sections of a report's text that are about training steps."""

from __future__ import annotations

from typing import Any

from aiobs.cli.figures import count, duration, share, three_digits
from aiobs.cli.report_page import RANKS_SHOWN, Page
from aiobs.cli.text_table import DIM, RED, clip, printable


def steps(page: Page, found: dict[str, Any]) -> None:
    """How many, how fast, how many kept."""
    steps = found["steps"]
    if not steps:
        return
    page.section("Steps")
    ranks = steps["rank_steps"] // steps["count"] if steps["count"] else 1
    line = f"  {count(steps['count'], 'step')}" + (f" on each of {ranks} ranks" if ranks > 1 else "")
    line += f", {three_digits(steps['per_second'])} a second"
    line += "".join(
        f", {label} {duration(steps[label])}" for label in ("p50", "p95", "p99") if steps[label] is not None
    )
    line += f", longest {duration(steps['longest'])}" if steps["longest"] is not None else ""
    page.lines.append(clip(line, page.width))
    reasons = ", ".join(f"{number} {_REASONS.get(reason, reason)}" for reason, number in steps["kept_for"].items())
    if steps["kept"] == steps["count"]:
        line = "  every step's trace was kept"
    else:
        line = f"  {count(steps['kept'], 'trace')} kept ({reasons}); from these the percentiles are estimated"
    page.lines.append(page.paint(clip(line, page.width), DIM))
    if not steps["metrics"]:
        page.lines.append("  no metrics were written: these figures cover the kept steps only")
    if steps["skipped"]:
        page.lines.append(f"  {count(steps['skipped'], 'optimizer step')} skipped (AMP overflow)")
    if steps["truncated"]:
        page.lines.append(page.paint(f"  {count(steps['truncated'], 'step')} cut off by the death of the process", RED))


_REASONS = {"every": "by number", "requested": "on request"}


def phases(page: Page, found: dict[str, Any]) -> None:
    """Where the time went."""
    phases = found["phases"]
    if not phases:
        return
    page.section("Phases")
    whole = found["steps"]["total"]
    rows = [
        [
            printable(phase["name"]), duration(phase["total"]), share(phase["total"], whole), duration(phase["p50"]), duration(phase["p95"]),
            duration(phase["p99"]), duration(phase["longest"]),
        ]
        for phase in phases
    ]  # fmt: skip
    page.table(["", "total", "share", "p50", "p95", "p99", "longest"], rows)


def ranks(page: Page, found: dict[str, Any]) -> None:
    """Which rank is slow."""
    ranks = sorted(found["ranks"], key=lambda rank: -(rank["p50"] or 0))
    if not ranks:
        return
    note = ""
    if len(ranks) > RANKS_SHOWN:
        note = f"the slowest and the fastest of {len(ranks)}"
        ranks = [*ranks[: RANKS_SHOWN // 2], *ranks[-RANKS_SHOWN // 2 :]]
    page.section("Step time by rank", note)
    rows = [
        [
            "?" if rank["rank"] is None else str(rank["rank"]), f"{rank['count']:,}", duration(rank["total"] / rank["count"]),
            duration(rank["p50"]), duration(rank["p95"]), duration(rank["p99"]), duration(rank["longest"]),
        ]
        for rank in ranks
    ]  # fmt: skip
    page.table(["rank", "steps", "mean", "p50", "p95", "p99", "longest"], rows, left=0)


def slowest(page: Page, found: dict[str, Any]) -> None:
    """Which steps were slow, and why."""
    steps = [step for step in found["slowest"] if (step["times_median"] or 0) >= 1.2]
    if not steps:
        return
    page.section("Slowest steps")
    ranks = bool(found["ranks"])
    rows = []
    for step in steps:
        why = ""
        if step["phase"]:
            why = f"{printable(step['phase'])} took {duration(step['phase_seconds'])}, usually {duration(step['phase_median'])}"
        rows.append([
            str(step["step"]), str(step["attempt"]) if step["attempt"] else "", str(step["rank"]) if ranks else "", duration(step["seconds"]),
            f"{three_digits(step['times_median'])} ×", why,
        ])  # fmt: skip
    page.table(["step", "attempt", "rank", "took", "median", "why<"], rows, left=0)
