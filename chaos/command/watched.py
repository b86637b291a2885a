"""``aiobs chaos inject --watch SPEC``: the fault is stopped when a bystander suffers, and judged when it is over."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aiobs.chaos.plan import Plan
from aiobs.errors import PlanError

if TYPE_CHECKING:
    from aiobs.chaos.containment.watch import Watch

_OPTIONS = ("listen", "folder", "baseline", "recovery")


def add_options(verb: argparse.ArgumentParser) -> None:
    """What ``inject`` knows beside the fault."""
    verb.add_argument(
        "--watch", metavar="SPEC", help="undo it at once when a boundary outside suffers by this spec, and judge it"
    )
    verb.add_argument(
        "--listen", action="append", metavar="HOST:PORT",
        help="with --watch: receive OTLP there (HTTP; grpc:HOST:PORT for gRPC; may be given twice)",
    )  # fmt: skip
    verb.add_argument(
        "--folder", metavar="FOLDER",
        help="with --watch: with --listen a new folder for what is received, else the run folder that is being written",
    )  # fmt: skip
    verb.add_argument("--baseline", type=float, metavar="S", help="with --watch: look on so long before (with --listen: the fault's length)")  # fmt: skip
    verb.add_argument("--recovery", type=float, metavar="S", help="with --watch: look on so long after (the fault's length)")  # fmt: skip


@contextmanager
def watching(options: argparse.Namespace, say: Callable[[str, int, list[str]], None]) -> Iterator[Watch | None]:
    """The watch that the options ask for; None where they ask for none.

    Raises:
        PlanError: the options do not fit together, or the spec cannot be used.
        NotEnabledError: an extra is missing.
    """
    if not options.watch:
        given = next((name for name in _OPTIONS if getattr(options, name) is not None), "")
        if given:
            raise PlanError(f"--{given}", getattr(options, given), "it belongs to --watch SPEC")
        yield None
        return
    from aiobs.chaos.containment.sources.opened import live_telemetry
    from aiobs.chaos.containment.spec import read_spec
    from aiobs.chaos.containment.watch import Watch

    spec = read_spec(options.watch)
    with ExitStack() as stack:
        live, endpoints = live_telemetry(stack, options.listen or (), options.folder or "")
        if endpoints:
            say("listening", time.time_ns(), list(endpoints))
        yield stack.enter_context(Watch(spec, live))


def look_on(seconds: float, over: Callable[[], object]) -> None:
    """Let telemetry come in for so long, or until `over`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not over():
        time.sleep(min(0.05, max(deadline - time.monotonic(), 0.0)))


def baseline_s(options: argparse.Namespace, watch: Watch, plan: Plan) -> float:
    """How long to look on before the fault: what comes from a folder has been there before."""
    if options.baseline is not None:
        return float(options.baseline)
    return (watch.spec.baseline_s or plan.duration_s) if options.listen else 0.0


def recovery_s(options: argparse.Namespace, watch: Watch, plan: Plan) -> float:
    """How long to look on after it."""
    return float(options.recovery) if options.recovery is not None else watch.spec.recovery_s or plan.duration_s


def verdict_on(watch: Watch, plan: Plan, as_lines: bool) -> int:
    """Judge the fault by what the watch has kept, say the verdict and give back its exit code."""
    from aiobs.chaos.containment.exit_codes import exit_code
    from aiobs.chaos.containment.judging import judge_faults
    from aiobs.chaos.containment.run_folder import RunFolder
    from aiobs.chaos.containment.written import as_json, as_markdown

    folder = Path(watch.live.folder)
    source = RunFolder(folder, watch.spec)
    try:
        (verdict,) = judge_faults(source, [it for it in source.faults() if it.id == plan.id])
    finally:
        source.close()
    if as_lines:
        print(json.dumps({"is": "verdict", "folder": str(folder), "verdict": as_json(verdict)}), flush=True)
    else:
        print(as_markdown(verdict).replace("**", ""))
        print(f"again:  aiobs verdict {folder} --spec {watch.spec.path}")
    return exit_code(verdict)
