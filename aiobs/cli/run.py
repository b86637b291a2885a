"""``aiobs run``: start a command so that it is recorded, and be invisible around it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiobs.activation import TRIGGERS
from aiobs.cli import fake_gpu, run_plan
from aiobs.cli.launch import CannotStartError, Child, Ended, end_like, find_program
from aiobs.cli.run_plan import Plan
from aiobs.errors import AiobsError, NotEnabledError, RecordError, SettingError
from aiobs.identity import LAUNCHER
from aiobs.settings import FALSE, TRUE, Settings, load_settings

EPILOG = """\
Examples:
  aiobs run -- python train.py --epochs 3
  aiobs run --name lr-sweep -- torchrun --nproc-per-node 4 train.py
  aiobs run --endpoint http://localhost:4318 -- python -m package.train
  aiobs run --fake-gpu=2 -- torchrun --nproc-per-node 2 train.py
  aiobs run -- bash launch.sh

The command keeps its stdin, stdout, stderr, exit code and signals. What was recorded goes into a run folder,
and to the endpoint where one is set; a summary is printed to stderr at the end.
"""


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog="aiobs run", usage="aiobs run [options] [--] command ...", description="Run a command and record it.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("--name", help="name of the run; default: that of the script")
    made.add_argument("--run-dir", metavar="FOLDER", help="the run folder; default: aiobs-runs/<time>-<name>")
    made.add_argument("--no-folder", action="store_true", help="write no run folder")
    made.add_argument("--service", metavar="NAME", help="service.name of what is recorded (OTEL_SERVICE_NAME)")
    made.add_argument(
        "--exporter", metavar="NAMES", help="otlp, console, prometheus, perfetto, separated by commas (AIOBS_EXPORTERS)"
    )
    made.add_argument("--endpoint", metavar="URL", help="send to this OTLP endpoint too (OTEL_EXPORTER_OTLP_ENDPOINT)")
    made.add_argument(
        "--protocol",
        choices=("http/protobuf", "http/json", "grpc"),
        help="of the endpoint (OTEL_EXPORTER_OTLP_PROTOCOL)",
    )
    made.add_argument(
        "--keep-every", metavar="N", help="keep every N-th step's trace, 0: only the first, last, slow and failed ones"
    )
    made.add_argument(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="set an environment variable for the command"
    )
    made.add_argument(
        "--fake-gpu", metavar="N", nargs="?", const=1, type=fake_gpu.number,
        help="let the host seem to have N GPUs (1 by default), to try out what is recorded of GPUs; needs a C compiler",
    )  # fmt: skip
    made.add_argument("--quiet", action="store_true", help="print nothing at the end (AIOBS_QUIET=1)")
    made.add_argument("command", nargs=argparse.REMAINDER, help="what to run")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the command's exit code, or dies of the signal that the command died of.

    Raises:
        AiobsError: an option cannot be used; nothing has been started.
    """
    options = parser().parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise SettingError("command", "", "say what to run, as in  aiobs run -- python train.py")
    if not hasattr(signal, "sigwaitinfo"):
        raise SettingError(
            "command", command[0], "aiobs run works on Linux only; elsewhere call aiobs.init() in your code"
        )
    base = _base_environment(options)
    settings = load_settings(environment=base)
    try:
        find_program(command[0], base)
    except CannotStartError as error:
        return _cannot_start(error).code
    if not settings.enabled:
        return _finish(_start(command, base))
    quiet = options.quiet or _true(base, "AIOBS_QUIET")
    return _recorded(options, command, base, settings, quiet=quiet)


def _base_environment(options: argparse.Namespace) -> dict[str, str]:
    """The caller's environment with what the options say."""
    base = run_plan.original_environment()
    if LAUNCHER in base:
        # Within another run: the outer one's identity stays its own, this run goes below it.
        for variable in ("AIOBS_RUN_ID", "AIOBS_RUN_NAME", "AIOBS_RUN_DIR"):
            base.pop(variable, None)
    for pair in options.env:
        name, equals, value = pair.partition("=")
        if not equals or not name or "\0" in pair:
            raise SettingError("--env", pair, "write NAME=VALUE")
        base[name] = value
    for value, variable in (
        (options.service, "OTEL_SERVICE_NAME"),
        (options.exporter, "AIOBS_EXPORTERS"),
        (options.endpoint, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (options.protocol, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        (options.keep_every, "AIOBS_KEEP_EVERY"),
    ):
        if value is not None:
            base[variable] = value
    return base


def _true(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "").lower()
    if value not in TRUE | FALSE:
        raise SettingError(name, environment[name], "use 1 or 0")
    return value in TRUE


def _recorded(
    options: argparse.Namespace, command: list[str], base: dict[str, str], settings: Settings, *, quiet: bool
) -> int:
    from aiobs.agent.start import ensure_agent
    from aiobs.cli import run_closing
    from aiobs.cli.run_record import RunRecord
    from aiobs.recorder.location import runtime_dir

    try:
        if options.fake_gpu is None:
            directory = runtime_dir(settings)
        else:
            settings, directory = fake_gpu.prepare(options.fake_gpu, settings, base)
        plan, settings = make_plan(options, command, base, settings, directory)
        record = RunRecord(plan, command, settings, directory)
    except (SettingError, NotEnabledError):
        raise
    except AiobsError as error:
        # Recording is our matter, running the command is the user's.
        print(f"aiobs: nothing is recorded: {error}", file=sys.stderr)
        return _finish(_start(command, base))
    child = _start(command, plan.environment)
    # After the child has blocked this process's signals: an agent in a thread must not be where they arrive.
    ensure_agent(settings, directory)
    ended = child if isinstance(child, Ended) else child.wait()
    how = record.close(ended)
    # An impatient Ctrl-C must not change how the command is seen to have ended.
    with contextlib.suppress(KeyboardInterrupt):
        run_closing.close(plan, settings, directory, how, command, quiet=quiet)
    return end_like(ended)


def make_plan(
    options: argparse.Namespace, command: Sequence[str], base: Mapping[str, str], settings: Settings, runtime_dir: Path
) -> tuple[Plan, Settings]:
    """Decide everything about the run; makes its folder.

    Raises:
        SettingError: an option cannot be used.
        RecordError: there is nowhere to write to.
    """
    from aiobs import patches

    name = options.name or settings.run_name or run_plan.command_name(command)
    run_id = run_plan.new_run_id(base)
    exporters = run_plan.exporters(settings.exporters, base, folder=not options.no_folder)
    folder = None
    if not options.no_folder:
        folder, exporters = _folder(options.run_dir or settings.run_dir, name, exporters)
    context, parent, root = run_plan.identity(base, run_id)
    values = {
        "AIOBS_RUN_ID": run_id,
        "AIOBS_RUN_NAME": name,
        "AIOBS_RUN_DIR": str(folder or ""),
        "AIOBS_EXPORTERS": ",".join(exporters),
        "AIOBS_RUNTIME_DIR": str(runtime_dir),
    }
    triggers = sorted({module for _, module, _ in patches.known()} | set(TRIGGERS))
    log = runtime_dir / "agent" / f"activation-{run_id[:40].replace('/', '-')}-{os.getpid()}.log"
    environment = run_plan.child_environment(base, context=context, settings=values, log=log, triggers=triggers)
    return Plan(name, run_id, context, parent, root, folder, log, environment), load_settings(environment=environment)


def _folder(given: str, name: str, exporters: tuple[str, ...]) -> tuple[Path | None, tuple[str, ...]]:
    """The run folder, and the exporters; no folder where none was named and the working directory takes none.

    Raises:
        SettingError: the named folder cannot be made.
        RecordError: no exporter is left.
    """
    try:
        return run_plan.make_folder(given, name), exporters
    except SettingError as error:
        if given:
            raise
        others = tuple(exporter for exporter in exporters if exporter != "jsonl")
        if not others:
            raise RecordError(str(error.value), error.remedy) from error
        print(f"aiobs: no run folder: {error}", file=sys.stderr)
        return None, others


def _start(command: Sequence[str], environment: Mapping[str, str]) -> Child | Ended:
    try:
        return Child(command, environment)
    except CannotStartError as error:
        return _cannot_start(error)


def _cannot_start(error: CannotStartError) -> Ended:
    print(f"aiobs: {error}", file=sys.stderr)
    return Ended(code=error.code)


def _finish(child: Child | Ended) -> int:
    return end_like(child if isinstance(child, Ended) else child.wait())
