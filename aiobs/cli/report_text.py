"""A report as text for people; sections that have nothing to say are left out."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

from aiobs import names
from aiobs.cli.figures import count, duration, size, three_digits
from aiobs.cli.report_page import RANKS_SHOWN, Page
from aiobs.cli.report_text_serving import serving
from aiobs.cli.report_text_steps import phases, ranks, slowest, steps
from aiobs.cli.text_table import BOLD, DIM, PLAIN, RED, clip, printable

FAKE_GPUS = "the GPUs of this run are fake (--fake-gpu): what is said of them was made up, not measured"


def render(found: dict[str, Any], *, width: int = 100, color: bool = False) -> list[str]:
    """The lines of :func:`aiobs.cli.report.report`'s result, without the line ends."""
    page = Page(max(60, width), color)
    _run(page, found)
    for section in (
        _processes,
        steps,
        phases,
        ranks,
        slowest,
        serving,
        _other_work,
        _scalars,
        _own_spans,
        _exceptions,
        _losses,
    ):
        section(page, found)
    return page.lines


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


def _run(page: Page, found: dict[str, Any]) -> None:
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
    if run["fake_gpus"]:
        page.lines.append(page.paint(f"  {FAKE_GPUS}", RED))
    if run["id"]:
        page.lines.append(page.paint(f"  run {run['id']}" + (f", trace {run['trace']}" if run["trace"] else ""), DIM))


def _command(shown: str) -> str:
    try:
        words = [value["stringValue"] for value in json.loads(shown)["values"]]
        return printable(shlex.join(words))
    except (ValueError, TypeError, KeyError):
        return printable(shown)


def _processes(page: Page, found: dict[str, Any]) -> None:
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
    died = sorted((process["end_ns"], process["pid"]) for process in processes if _bad(process) and process["end_ns"])
    rows = []
    for process in listed:
        state = ended(process) or ("still open" if process["end_ns"] is None else "")
        if len(died) > 1 and died[0] == (process["end_ns"], process["pid"]):
            state += ", first to go"
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


def _other_work(page: Page, found: dict[str, Any]) -> None:
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


def _scalars(page: Page, found: dict[str, Any]) -> None:
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


def _own_spans(page: Page, found: dict[str, Any]) -> None:
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


def _exceptions(page: Page, found: dict[str, Any]) -> None:
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
    names.AGENT_FAULTS: "faults inside aiobs, swallowed",
    names.CLIPPED: "values cut to their limits",
    names.SDK_PROCESSED: "records lost",
    names.SDK_EXPORTED: "spans not exported",
}
_LOST_FOR = {
    "queue_full": "overwritten before the agent read them; raise AIOBS_RING_BYTES",
    "damaged": "damaged in the flight record",
    "unrecorded": "values that could not be recorded",
    "overflow": "more held back at once than the agent keeps",
    "spool_full": "the endpoint was away for longer than AIOBS_SPOOL_BYTES lasts",
    "disk_full": "no space on the disk",
    "refused": "refused by the receiver",
    "partly_refused": "refused by the receiver",
}


def _losses(page: Page, found: dict[str, Any]) -> None:
    if not found["losses"]:
        return
    page.section("Not complete")
    for loss in found["losses"]:
        number = "" if loss["count"] is None else f"{loss['count']:,} "
        where = f" ({printable(loss['details'])})" if loss["details"] else ""
        why = f": {_LOST_FOR.get(loss['reason'], loss['reason'])}" if loss["reason"] else ""
        text = f"  {number}{_LOSSES.get(loss['what'], loss['what'])}{where}{why}"
        page.lines.append(page.paint(clip(text, page.width), RED))
