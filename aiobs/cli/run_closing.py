"""The end of ``aiobs run``: wait for the agent, then say on stderr what was recorded and where it is."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aiobs.activation import FAILED, HOOKED, MISSING, SKIPPED, STARTED
from aiobs.activation.notes import read_notes
from aiobs.agent.exits import Exit
from aiobs.agent.selfstats import read_status
from aiobs.cli.figures import count
from aiobs.cli.jaeger import UI_PORT, jaeger_answers
from aiobs.cli.report_text import FAKE_GPUS
from aiobs.cli.run_folder import signal_files
from aiobs.cli.run_plan import ENDPOINTS, Plan
from aiobs.device.fake import VARIABLE as FAKE_GPU
from aiobs.errors import AiobsError, NotEnabledError
from aiobs.settings import Settings

SUMMARY_BYTES = 256 << 20
"""Larger runs are not summed up unasked: it would take more than some seconds."""
WAIT_S = 10.0
"""Longest wait for the agent to write what the command left."""


def close(plan: Plan, settings: Settings, runtime_dir: Path, how: Exit, command: Sequence[str], *, quiet: bool) -> None:
    """Wait, then print; where `quiet` only wait."""
    done = settings.agent == "off" or _wait(settings, runtime_dir, plan)
    if not quiet:
        for line in _lines(plan, settings, runtime_dir, how, command, done=done):
            print(line, file=sys.stderr)
    plan.log.unlink(missing_ok=True)


def _wait(settings: Settings, runtime_dir: Path, plan: Plan) -> bool:
    from aiobs.agent.recover import wait_done

    return wait_done(runtime_dir, plan.run_id, WAIT_S, settings=settings)


def _lines(
    plan: Plan, settings: Settings, runtime_dir: Path, how: Exit, command: Sequence[str], *, done: bool
) -> list[str]:
    if settings.agent == "off":
        return [
            "",
            f"aiobs: the command {how}",
            "aiobs: AIOBS_AGENT=off: what it recorded stays in the runtime directory until an agent or `aiobs recover` takes it",
        ]
    lines = [""]
    recorded: bool | None = None
    if plan.folder is not None:
        text, recorded = _summary(plan.folder, how)
        lines += text
    else:
        lines.append(f"aiobs: the command {how}")
    if plan.environment.get(FAKE_GPU) and not any(FAKE_GPUS in line for line in lines):
        lines.append(f"aiobs: {FAKE_GPUS}")
    lines += why_nothing(plan.log, command, recorded=recorded)
    if not done:
        lines.append(
            f"aiobs: the agent is still busy after {WAIT_S:g} s; it goes on by itself, see `aiobs agent --status`"
        )
    lines += _endpoint(plan, settings, runtime_dir)
    if plan.folder is not None:
        lines.append(f"aiobs: run folder {_short(plan.folder)}")
    return lines


def _summary(folder: Path, how: Exit) -> tuple[list[str], bool | None]:
    """The summary, and whether it shows a process that recorded (None: not known)."""
    from aiobs.cli.report import report
    from aiobs.cli.report_text import render

    if sum(path.stat().st_size for path in signal_files(folder, "traces")) > SUMMARY_BYTES:
        return [f"aiobs: the command {how}; for a summary of this large run: aiobs summary {_short(folder)}"], None
    try:
        found = report(folder)
        return render(found, width=_width(), color=sys.stderr.isatty()), bool(found["processes"])
    except NotEnabledError as error:
        return [f"aiobs: the command {how}; for a summary: {error}"], None
    except AiobsError as error:
        return [f"aiobs: the command {how}; no summary: {error}"], None


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def why_nothing(log: Path, command: Sequence[str], *, recorded: bool | None = None) -> list[str]:
    """Why no Python process recorded, if so; nothing where one did. `recorded`: what the run folder shows."""
    outcomes = list(read_notes(log))
    if recorded or (recorded is None and any(outcome == STARTED for _, _, outcome in outcomes)):
        return [
            f"aiobs: {outcome}"
            for outcome in sorted({outcome for _, _, outcome in outcomes if outcome.startswith(FAILED)})
        ]
    missing = sorted({executable for _, executable, outcome in outcomes if outcome.startswith(MISSING)})
    if missing:
        return [
            f"aiobs: nothing was recorded inside {each}: aiobs is not installed there; run  {each} -m pip install aiobs-sdk"
            for each in missing
        ]
    failed = [outcome for _, _, outcome in outcomes if outcome.startswith(FAILED)]
    if failed:
        return [f"aiobs: nothing was recorded: {failed[0]}; see `aiobs doctor`"]
    if any(outcome == HOOKED for _, _, outcome in outcomes):
        return [
            "aiobs: only the run itself was recorded: no Python process of the command imported PyTorch or OpenTelemetry"
        ]
    skipped = [outcome for _, _, outcome in outcomes if outcome.startswith(SKIPPED)]
    if skipped:
        return [f"aiobs: only the run itself was recorded: every Python process was {skipped[0]}"]
    switches = [
        word for word in command[1:4] if word.startswith("-") and set(word[1:]) & set("IES") and word[1:].isalpha()
    ]
    if switches:
        return [
            f"aiobs: only the run itself was recorded: Python's {switches[0]} keeps PYTHONPATH or sitecustomize out; call aiobs.init() in the code"
        ]
    return ["aiobs: only the run itself was recorded: the command started no Python process that reads PYTHONPATH"]


def _endpoint(plan: Plan, settings: Settings, runtime_dir: Path) -> list[str]:
    """Whether the endpoint took the spans."""
    if "otlp" not in settings.exporters:
        return []
    address = next(
        (plan.environment[name] for name in ENDPOINTS[1::-1] if plan.environment.get(name)), "the default endpoint"
    ).rpartition("@")[2]
    status = read_status(runtime_dir)
    routes = [
        route for kind in ("routes", "ended") for route in status.get(kind, ()) if route.get("run_id") == plan.run_id
    ]
    problems = [text for route in routes for name, text in route.get("problems", {}).items() if name == "otlp"]
    outlets = [route["exporters"]["otlp"] for route in routes if "otlp" in route.get("exporters", {})]
    if problems or not outlets:
        return [f"aiobs: nothing was sent to {address}: {problems[0] if problems else 'see `aiobs doctor`'}"]
    sent = sum(outlet.get("exported", {}).get("traces", 0) for outlet in outlets)
    waiting = sum(outlet.get("waiting", 0) for outlet in outlets)
    dropped = Counter[str]()
    for outlet in outlets:
        dropped.update(outlet.get("dropped", {}))
    lines = [f"aiobs: {count(sent, 'span')} sent to {address}"] if sent or not waiting else []
    if waiting:
        error = next((outlet["last_error"] for outlet in outlets if outlet.get("last_error")), "still sending")
        lines.append(f"aiobs: {count(waiting, 'item')} wait for {address}, to be sent when it takes them: {error}")
    if dropped:
        lines.append(
            f"aiobs: not taken by {address}: "
            + ", ".join(f"{number:,} items ({reason})" for reason, number in dropped.items())
        )
    if sent and jaeger_answers():
        lines.append(f"aiobs: look at it in Jaeger: http://localhost:{UI_PORT}/trace/{plan.context.trace_id.hex()}")
    return lines


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
