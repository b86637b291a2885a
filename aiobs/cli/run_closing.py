"""The end of ``aiobs run``: wait for the agent, then say on stderr what was recorded and where it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from aiobs.activation import FAILED, HOOKED, MISSING, SKIPPED, STARTED
from aiobs.activation.notes import read_notes
from aiobs.agent.exits import Exit
from aiobs.agent.selfstats import read_status
from aiobs.cli.run_plan import Plan
from aiobs.errors import AiobsError, NotEnabledError
from aiobs.settings import Settings

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


def _lines(plan: Plan, settings: Settings, runtime_dir: Path, how: Exit, command: Sequence[str], *, done: bool) -> list[str]:
    lines = [""]
    if plan.folder is not None:
        lines += _summary(plan.folder, how)
    else:
        lines.append(f"aiobs: the command {how}")
    lines += why_nothing(plan.log, command)
    if settings.agent == "off":
        lines.append("aiobs: AIOBS_AGENT=off: records stay in the runtime directory until an agent or `aiobs recover` takes them")
    elif not done:
        lines.append(f"aiobs: the agent is still busy after {WAIT_S:g} s; it goes on by itself, see `aiobs agent --status`")
    lines += _endpoint(plan, settings, runtime_dir)
    if plan.folder is not None:
        lines.append(f"aiobs: run folder {_short(plan.folder)}")
    return lines


def _summary(folder: Path, how: Exit) -> list[str]:
    from aiobs.cli.report import report
    from aiobs.cli.report_text import render

    try:
        return render(report(folder), width=_width(), color=sys.stderr.isatty())
    except NotEnabledError as error:
        return [f"aiobs: the command {how}; for a summary: {error}"]
    except AiobsError as error:
        return [f"aiobs: the command {how}; no summary: {error}"]


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def why_nothing(log: Path, command: Sequence[str]) -> list[str]:
    """Why no Python process recorded, if so; nothing where one did."""
    outcomes = list(read_notes(log))
    if any(outcome == STARTED for _, _, outcome in outcomes):
        return [f"aiobs: {outcome}" for outcome in sorted({outcome for _, _, outcome in outcomes if outcome.startswith(FAILED)})]
    missing = sorted({executable for _, executable, outcome in outcomes if outcome.startswith(MISSING)})
    if missing:
        return [f"aiobs: nothing was recorded inside {each}: aiobs is not installed there; run  {each} -m pip install aiobs-sdk" for each in missing]
    failed = [outcome for _, _, outcome in outcomes if outcome.startswith(FAILED)]
    if failed:
        return [f"aiobs: nothing was recorded: {failed[0]}; see `aiobs doctor`"]
    if any(outcome == HOOKED for _, _, outcome in outcomes):
        return ["aiobs: only the run itself was recorded: no Python process of the command imported PyTorch or OpenTelemetry"]
    skipped = [outcome for _, _, outcome in outcomes if outcome.startswith(SKIPPED)]
    if skipped:
        return [f"aiobs: only the run itself was recorded: every Python process was {skipped[0]}"]
    switches = [word for word in command[1:4] if word.startswith("-") and set(word[1:]) & set("IES") and word[1:].isalpha()]
    if switches:
        return [f"aiobs: only the run itself was recorded: Python's {switches[0]} keeps PYTHONPATH or sitecustomize out; call aiobs.init() in the code"]
    return ["aiobs: only the run itself was recorded: the command started no Python process that reads PYTHONPATH"]


def _endpoint(plan: Plan, settings: Settings, runtime_dir: Path) -> list[str]:
    remote = [name for name in settings.exporters if name in ("otlp",)]
    if not remote:
        return []
    address = next((plan.environment[name] for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") if plan.environment.get(name)), "the default endpoint")
    for route in read_status(runtime_dir).get("routes", ()):
        if route.get("run_id") != plan.run_id:
            continue
        outlet = route.get("exporters", {}).get("otlp", {})
        sent, waiting, error = outlet.get("exported", {}).get("traces", 0), outlet.get("waiting", 0), outlet.get("last_error", "")
        dropped = sum(outlet.get("dropped", {}).values())
        lines = [f"aiobs: {sent:,} spans sent to {address}"]
        if waiting:
            lines.append(f"aiobs: {waiting:,} items wait for {address} ({error or 'sending'}); they are sent when it answers")
        if dropped:
            lines.append(f"aiobs: {dropped:,} items were refused or dropped: {outlet.get('dropped')}")
        return lines
    return [f"aiobs: nothing is known of {address}; see `aiobs doctor`"]


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
