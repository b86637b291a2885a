"""``aiobs agent``: run this host's agent in the foreground (a sidecar, a service), look at it, or stop it."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiobs.agent.election import is_led, lock_path
from aiobs.agent.selfstats import read_status
from aiobs.cli.figures import count, duration, size
from aiobs.errors import RecordError
from aiobs.recorder.location import runtime_dir
from aiobs.settings import load_settings

STOP_S = 15.0


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog="aiobs agent",
        description="Run the agent of this host, which exports what processes record. Normally it starts and ends by itself.",
    )
    made.add_argument("--runtime-dir", metavar="FOLDER", help="where flight records are (AIOBS_RUNTIME_DIR)")
    made.add_argument(
        "--linger", type=float, metavar="SECONDS", help="leave when there was nothing to do for so long; default: stay"
    )
    what = made.add_mutually_exclusive_group()
    what.add_argument(
        "--status", action="store_true", help="say what the running agent does; exit code 1 where none runs"
    )
    what.add_argument("--stop", action="store_true", help="let the running agent finish its work and end")
    made.add_argument("--json", action="store_true", help="with --status: everything as JSON")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parser().parse_args(argv)
    settings = load_settings({"runtime_dir": options.runtime_dir})
    directory = runtime_dir(settings)
    if options.status:
        return _status(directory, as_json=options.json)
    if options.stop:
        return stop(directory)
    if is_led(directory):
        print(f"aiobs: {directory} has an agent already (pid {leader(directory).get('pid', '?')})")
        return 1
    from aiobs.agent.__main__ import run

    return run(directory, settings, math.inf if options.linger is None else options.linger, foreground=True)


def leader(directory: Path) -> dict[str, Any]:
    """What the agent of `directory` says of itself in its lock: ``pid`` and ``since`` (Unix seconds)."""
    try:
        found = json.loads(lock_path(directory).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _status(directory: Path, *, as_json: bool) -> int:
    running = is_led(directory)
    status = read_status(directory)
    if as_json:
        print(json.dumps({"running": running, "leader": leader(directory), **status}, indent=1))
    else:
        print("\n".join(status_lines(directory, status, running=running)))
    return 0 if running else 1


def status_lines(directory: Path, status: dict[str, Any], *, running: bool) -> list[str]:
    """The agent's state for people."""
    if running:
        holder = leader(directory)
        lines = [
            f"agent {holder.get('pid', '?')} of {directory} runs for {duration(max(0.0, time.time() - holder.get('since', time.time())))}"
        ]
    else:
        lines = [f"no agent runs for {directory}"]
        if status:
            lines.append(f"  the last one reported {duration(max(0.0, time.time() - status.get('time', 0)))} ago:")
    if not status:
        return lines
    lines.append(
        f"  {count(len(status.get('adopted', ())), 'flight record')} in work, {status.get('finished', 0):,} done, {len(status.get('damaged', ())):,} damaged"
    )
    for route in status.get("routes", ()):
        lines.append(
            f"  run {route.get('run_id')}: {count(route.get('spans', 0), 'span')}"
            + (f", {route['lost']:,} records lost" if route.get("lost") else "")
        )
        for name, problem in route.get("problems", {}).items():
            lines.append(f"    {name}: {problem}")
        for name, outlet in route.get("exporters", {}).items():
            text = f"    {name}: {sum(outlet.get('exported', {}).values()):,} items out"
            if outlet.get("waiting"):
                text += f", {outlet['waiting']:,} waiting ({size(outlet.get('waiting_bytes', 0))})"
            if outlet.get("dropped"):
                text += ", dropped: " + ", ".join(
                    f"{number:,} {reason}" for reason, number in outlet["dropped"].items()
                )
            lines.append(text + (f"; {outlet['last_error']}" if outlet.get("last_error") else ""))
    return lines


def stop(directory: Path) -> int:
    """Have the agent of `directory` end; 0 once it has.

    Raises:
        RecordError: it is a thread of somebody's program, or does not end.
    """
    if not is_led(directory):
        print(f"aiobs: no agent runs for {directory}")
        return 0
    pid = leader(directory).get("pid")
    if not isinstance(pid, int) or pid <= 1:
        raise RecordError(str(lock_path(directory)), "does not say which process the agent is")
    # In thread mode the holder is the user's own program, and pids of another container mean nothing here.
    if not _is_agent(pid):
        raise RecordError(
            str(directory), f"its agent is part of process {pid}, which is not an agent of its own; it ends with that"
        )
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while is_led(directory) and leader(directory).get("pid") == pid:
        if time.monotonic() > deadline:
            raise RecordError(str(directory), f"its agent (pid {pid}) is still busy after {STOP_S:g} s")
        time.sleep(0.05)
    print(f"aiobs: agent {pid} has ended")
    return 0


def _is_agent(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"aiobs.agent" in words or b"agent" in words[:4]
