"""A report as text for people; sections that have nothing to say are left out."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from typing import Any

from aiobs import names
from aiobs.cli.figures import count, duration, share, size, three_digits
from aiobs.cli.text_table import BOLD, DIM, PLAIN, RED, clip, printable, table

RANKS_SHOWN = 16
"""Processes and ranks listed one by one; of more, those that ended badly and the extremes."""


def render(found: dict[str, Any], *, width: int = 100, color: bool = False) -> list[str]:
    """The lines of :func:`aiobs.cli.report.report`'s result, without the line ends."""
    page = _Page(max(60, width), color)
    _run(page, found)
    for section in (
        _processes,
        _steps,
        _phases,
        _ranks,
        _slowest,
        _other_work,
        _scalars,
        _own_spans,
        _exceptions,
        _losses,
    ):
        section(page, found)
    return page.lines


class _Page:
    def __init__(self, width: int, color: bool) -> None:
        self.lines: list[str] = []
        self.width = width
        self._color = color

    def paint(self, text: str, code: str) -> str:
        return f"{code}{text}{PLAIN}" if self._color else text

    def section(self, title: str, note: str = "") -> None:
        self.lines.append("")
        self.lines.append(self.paint(title, BOLD) + (self.paint(f"  {note}", DIM) if note else ""))

    def table(
        self, heads: list[str], rows: list[list[str]], *, bad: Callable[[int], bool] = lambda _: False, **how: int
    ) -> None:
        lines = table(heads, rows, width=self.width, **how)
        self.lines.append(self.paint(lines[0], DIM))
        self.lines += [self.paint(line, RED) if bad(number) else line for number, line in enumerate(lines[1:])]


def ended(process: dict[str, Any]) -> str:
    """How a process or a run ended: ``exit 0``, ``SIGKILL``, ``out of memory (SIGKILL)``."""
    cause, code, signal = process.get("cause"), process.get("exit_code"), process.get("signal")
    if cause == "oom_kill":
        return "killed: out of memory"
    if cause == "signal":
        return f"killed by {signal or 'a signal'}"
    if cause == "exit":
        return "ended" if code is None else f"exit {code}"
    if cause == "unknown":
        return "gone, nobody saw how"
    return ""


def _bad(process: dict[str, Any]) -> bool:
    return process.get("cause") in ("oom_kill", "signal", "unknown") or str(process.get("exit_code") or 0) != "0"


def _run(page: _Page, found: dict[str, Any]) -> None:
    run = found["run"]
    name = printable(run["name"] or "run")
    state = ended(run) if run["launched"] else ""
    if run["cut"]:
        state = "launcher " + (state or "gone")
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((run["start_ns"] or 0) / 1e9))
    parts = [
        duration(run["seconds"]),
        f"began {began}",
        count(run["spans"], "span") + " in " + count(run["traces"], "trace"),
    ]
    if run["restarts"]:
        parts.insert(1, count(run["restarts"], "restart") + " by the launcher")
    if state:
        parts.insert(0, page.paint(state, RED if _bad(run) else PLAIN))
    page.lines.append(page.paint(name, BOLD) + "  " + ", ".join(parts))
    if run.get("command"):
        page.lines.append(page.paint(clip("  " + _command(run["command"]), page.width), DIM))
    if run["id"]:
        page.lines.append(page.paint(f"  run {run['id']}" + (f", trace {run['trace']}" if run["trace"] else ""), DIM))


def _command(shown: str) -> str:
    try:
        words = [value["stringValue"] for value in json.loads(shown)["values"]]
        return printable(shlex.join(words))
    except (ValueError, TypeError, KeyError):
        return printable(shown)


def _processes(page: _Page, found: dict[str, Any]) -> None:
    processes = found["processes"]
    if not processes:
        return
    listed = processes
    note = ""
    if len(processes) > RANKS_SHOWN:
        listed = [process for process in processes if _bad(process) or process["truncated"]][:RANKS_SHOWN]
        well = len(processes) - len(listed)
        note = f"{count(well, 'process', 'processes')} ended well" + (", the others:" if listed else "")
    page.section("Processes", note)
    if not listed:
        return
    several_hosts = len({process["host"] for process in processes}) > 1
    several_attempts = len({process["attempt"] for process in processes}) > 1
    several_services = len({process["service"] for process in processes}) > 1
    rows = []
    for process in listed:
        state = ended(process) or ("still open" if not process["ended"] else "")
        if process["truncated"]:
            state += f", {count(process['truncated'], 'span')} cut off"
        rows.append([
            "" if process["rank"] is None else str(process["rank"]),
            str(process["attempt"]) if several_attempts else "",
            printable(process["service"] or "") if several_services else "",
            str(process["pid"] or ""), printable(process["host"] or "") if several_hosts else "",
            duration(process["seconds"]), f"{process['spans']:,}", state,
        ])  # fmt: skip
    heads = ["rank", "attempt", "service<", "pid", "host<", "lasted", "spans", "ended<"]
    page.table(heads, rows, left=0, bad=lambda number: _bad(listed[number]))


def _steps(page: _Page, found: dict[str, Any]) -> None:
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


def _phases(page: _Page, found: dict[str, Any]) -> None:
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


def _ranks(page: _Page, found: dict[str, Any]) -> None:
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


def _slowest(page: _Page, found: dict[str, Any]) -> None:
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


def _other_work(page: _Page, found: dict[str, Any]) -> None:
    kinds = [*found["init"], *found["evaluate"], *found["checkpoints"]]
    compiled = found["compile"]
    if compiled:
        kinds.append(compiled)
    if not kinds:
        return
    page.section("Beside the steps")
    rows = []
    for kind in kinds:
        notes = [size(kind["bytes"])] if kind["bytes"] else []
        notes += [count(kind["batches"], "batch", "batches")] if kind["batches"] else []
        notes += [f"{kind['failed']} failed"] if kind["failed"] else []
        notes += [f"{kind['truncated']} cut off"] if kind["truncated"] else []
        if kind is compiled and kind["count"] > 1:
            notes += [f"{printable(trigger['trigger'])} {trigger['count']} ×" for trigger in kind["triggers"]]
        longest = duration(kind["longest"]) if kind["count"] > 1 else ""
        rows.append([kind["name"], f"{kind['count']:,}", duration(kind["total"]), longest, ", ".join(notes)])
    page.table(["", "times", "total", "longest", "<"], rows)


def _scalars(page: _Page, found: dict[str, Any]) -> None:
    if not found["scalars"]:
        return
    page.section("Logged values")
    rows = []
    for scalar in found["scalars"]:
        several = scalar["kept"] > 1
        rows.append([
            printable(scalar["name"]), three_digits(scalar["first"]) if several else "", three_digits(scalar["last"]),
            three_digits(scalar["least"]) if several else "", three_digits(scalar["most"]) if several else "",
        ])  # fmt: skip
    page.table(["", "first", "last", "least", "most"], rows)


def _own_spans(page: _Page, found: dict[str, Any]) -> None:
    if not found["own_spans"]:
        return
    page.section("Other spans")
    rows = [
        [
            clip(printable(span["name"]), 48), f"{span['count']:,}", duration(span["total"]), duration(span["p50"]) if span["count"] > 1 else "",
            duration(span["p95"]) if span["count"] > 1 else "", duration(span["longest"]) if span["count"] > 1 else "", f"{span['failed']:,}" if span["failed"] else "",
        ]
        for span in found["own_spans"]
    ]  # fmt: skip
    page.table(["", "count", "total", "p50", "p95", "longest", "failed"], rows)


def _exceptions(page: _Page, found: dict[str, Any]) -> None:
    if not found["exceptions"]:
        return
    page.section("Exceptions")
    for kind in found["exceptions"]:
        ranks = [rank for rank in kind["ranks"] or () if rank is not None]
        where = (
            f" on rank {', '.join(map(str, ranks[:8]))}{' …' if len(ranks) > 8 else ''}"
            if found["ranks"] and ranks
            else ""
        )
        times = f"{kind['count']} × " if kind["count"] > 1 else ""
        message = printable(kind["message"] or "")
        text = f"  {times}{printable(kind['type'] or 'exception')} in {printable(kind['span'] or '?')}{where}" + (
            f": {message}" if message else ""
        )
        page.lines.append(clip(text, page.width))


_LOSSES = {
    names.EVENT_RECORDS_LOST: "records overwritten before the agent read them",
    names.SPOOL_DROPPED: "items given up",
    names.AGENT_FAULTS: "faults inside aiobs",
    names.SDK_PROCESSED: "records lost",
    names.SDK_EXPORTED: "spans not exported",
}


def _losses(page: _Page, found: dict[str, Any]) -> None:
    if not found["losses"]:
        return
    page.section("Not complete")
    for loss in found["losses"]:
        number = "" if loss["count"] is None else f"{loss['count']:,} "
        details = f" ({printable(loss['details'])})" if loss["details"] else ""
        page.lines.append(
            page.paint(clip(f"  {number}{_LOSSES.get(loss['what'], loss['what'])}{details}", page.width), RED)
        )
