"""The part of a report's text that is about serving."""

from __future__ import annotations

from typing import Any

from aiobs.cli.figures import count, duration, share, three_digits
from aiobs.cli.report_page import Page
from aiobs.cli.text_table import RED, clip, printable

PARTS = (
    ("queued", "queued"), ("preempted", "preempted"), ("prefill", "prefill"), ("decode", "decode"),
    ("before_first_chunk", "to 1st chunk"), ("streaming", "streaming"), ("other", "other"),
    ("stalled", "stalled"), ("loop_blocked", "loop blocked"),
)  # fmt: skip
"""Where time went, and what it is called."""
NOTED_S = 0.01
NOTED_SHARE = 0.02
"""A part this small is not worth a word."""


def serving(page: Page, found: dict[str, Any]) -> None:
    """Requests, their tokens, where slow ones waited, what failed, calls, engines."""
    it = found["serving"]
    if not it:
        return
    if it["requests"]:
        _requests(page, "Requests", it["requests"])
        _tokens(page, "Tokens", it["requests"])
        _waits(page, it["requests"])
        _slow(page, it["slow"], it["requests"])
        _slowest(page, it["slowest"])
        _errors(page, it["errors"])
    if it["calls"]:
        _requests(page, "Calls of models", it["calls"])
        _tokens(page, "Tokens of calls", it["calls"])
    if it["engines"]:
        _engines(page, it["engines"])


def _what(row: dict[str, Any], listed: list[dict[str, Any]]) -> list[str]:
    """Service, name and model; what is the same in every row is left out, but for the name."""
    several = {key for key in ("service", "model") if len({other[key] for other in listed if other[key]}) > 1}
    return [
        printable(row["service"]) if "service" in several else "",
        clip(printable(row["name"]), 44),
        clip(printable(row["model"]), 28) if "model" in several else "",
    ]


def _number(value: float | None) -> str:
    return f"{value:,.0f}" if value else ""


def _requests(page: Page, title: str, routes: list[dict[str, Any]]) -> None:
    models = {row["model"] for row in routes if row["model"]}
    page.section(title, f"model {printable(next(iter(models)))}" if len(models) == 1 else "")
    lines = [
        [
            *_what(row, routes), f"{row['count']:,}", three_digits(row["per_second"]), _number(row["errors"]), _number(row["refused"]),
            _number(row["disconnected"]), duration(row["seconds_p50"]), duration(row["seconds_p95"]), duration(row["seconds_p99"]), duration(row["longest"]),
        ]
        for row in routes
    ]  # fmt: skip
    heads = [
        "service<",
        "<",
        "model<",
        "count",
        "a second",
        "failed",
        "4xx",
        "left",
        "p50",
        "p95",
        "p99",
        "longest",
    ]
    page.table(heads, lines, left=0, gap=2)


def _tokens(page: Page, title: str, routes: list[dict[str, Any]]) -> None:
    asked = [row for row in routes if row["first_token_p50"] is not None or row["output_tokens"]]
    if not asked:
        return
    page.section(title, "p50, p95 and p99 of the time to the first token and of that for each further one")
    lines = [
        [
            *_what(row, routes), *_three(row, "first_token"), *_three(row, "per_token"),
            _number(row["input_tokens"]), _number(row["output_tokens"]), three_digits(row["output_tokens_per_second"]) if row["output_tokens"] else "",
        ]
        for row in asked
    ]  # fmt: skip
    heads = ["service<", "<", "model<", "1st token", "", "", "per token", "", "", "tokens in", "out", "out a second"]
    page.table(heads, lines, left=0, gap=2)


def _waits(page: Page, routes: list[dict[str, Any]]) -> None:
    engaged = [row for row in routes if row["queue_p50"] is not None or row["decode_p50"] is not None]
    if not engaged:
        return
    page.section("In the engine", "p50, p95 and p99")
    lines = [
        [*_what(row, routes), *_three(row, "queue"), *_three(row, "prefill"), *_three(row, "decode"), _number(row["preemptions"])]
        for row in engaged
    ]  # fmt: skip
    heads = ["service<", "<", "model<", "queue", "", "", "prefill", "", "", "decode", "", "", "preempted"]
    page.table(heads, lines, left=0, gap=2)


def _three(row: dict[str, Any], what: str) -> list[str]:
    return [duration(row[f"{what}_{quantile}"]) for quantile in ("p50", "p95", "p99")]


def _slow(page: Page, slow: list[dict[str, Any]], routes: list[dict[str, Any]]) -> None:
    told = [row for row in slow if any(row[part] for part, _ in PARTS if part != "other")]
    if not told:
        return
    page.section("Where the slowest 5 % spent their time", "stalls and a blocked event loop lie within the other parts")
    lines = [
        [*_what(row, routes), f"{row['count']:,}", duration(row["above"]), *(share(row[part], row["total"]) if (row[part] or 0) > 0.0005 * row["total"] else "" for part, _ in PARTS)]
        for row in told
    ]  # fmt: skip
    page.table(["service<", "<", "model<", "count", "from", *(name for _, name in PARTS)], lines, left=0, gap=2)


def _slowest(page: Page, slowest: list[dict[str, Any]]) -> None:
    page.section("Slowest requests")
    lines = [[duration(row["seconds"]), clip(printable(row["name"]), 44), row["trace"], _why(row)] for row in slowest]
    heads = ["took", "<", "trace<", "why<"]
    page.table(heads, lines, left=0, gap=2, bad=lambda number: slowest[number]["error"] is not None)


def _why(row: dict[str, Any]) -> str:
    """What took the time, the largest part first."""
    parts = [(row[part], name) for part, name in PARTS if part in row and row[part] and row[part] >= NOTED_S]
    parts = sorted((part for part in parts if part[0] >= NOTED_SHARE * row["seconds"]), reverse=True)
    words = [f"{name} {duration(seconds)}" for seconds, name in parts[:4]]
    if row["preemptions"] and (row["preemptions"] > 1 or not row["preempted"]):
        words.append(f"preempted {row['preemptions']} ×")
    if row["error"]:
        words.insert(0, ("cut off: " if row["truncated"] else "failed: ") + printable(row["error"]))
    if row["disconnected"]:
        words.append("caller left")
    return ", ".join(words)


def _errors(page: Page, errors: list[dict[str, Any]]) -> None:
    if not errors:
        return
    page.section("Failed requests")
    for row in errors:
        kind = printable(row["error"])
        status = f", status {row['status']}" if row["status"] and str(row["status"]) != kind else ""
        how = ", cut off by the end of the process" if row["truncated"] else ""
        text = f"  {row['count']:,} × {kind} in {printable(row['name'])}{status}{how}, trace {row['trace']}"
        page.lines.append(page.paint(clip(text, page.width), RED))


def _engines(page: Page, engines: list[dict[str, Any]]) -> None:
    kept = sum(row["kept"] for row in engines)
    page.section("Engines", f"waiting and KV cache as {count(kept, 'kept step')} saw them" if kept else "")
    lines = [
        [
            printable(row["engine"] or "engine"), str(row["pid"] or "") if len(engines) > 1 else "", f"{row['steps']:,}",
            duration(row["busy"] / row["steps"]) if row["busy"] and row["steps"] else "", duration(row["longest"]),
            three_digits(row["batch"]) if row["batch"] else "", _number(row["batch_most"]),
            three_digits(row["waiting"]) if row["waiting_most"] else "", _number(row["waiting_most"]),
            share(row["kv"], 1) if row["kv_most"] else "", share(row["kv_most"], 1) if row["kv_most"] else "",
            _number(row["input_tokens"]), _number(row["output_tokens"]),
        ]
        for row in engines
    ]  # fmt: skip
    heads = ["engine<", "pid", "steps", "mean step", "longest", "running", "most", "waiting", "most", "KV cache", "most", "tokens in", "out"]  # fmt: skip
    page.table(heads, lines, left=0, gap=2)
