"""``aiobs recover``: export the flight records that a crash, a reboot or a killed agent left behind."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from aiobs import guard
from aiobs.agent.recover import recover
from aiobs.cli.figures import count
from aiobs.errors import RecordError, SettingError
from aiobs.recorder.location import runtime_dir
from aiobs.settings import load_settings


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog="aiobs recover",
        description="Export the flight records that were left behind, each to where its process wanted its telemetry to go.",
    )
    made.add_argument(
        "--runtime-dir",
        metavar="FOLDER",
        help="where flight records are (AIOBS_RUNTIME_DIR); may be a copy from another machine",
    )
    made.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb: 0 when nothing is left, else 1."""
    options = parser().parse_args(argv)
    if not options.timeout > 0:
        raise SettingError("--timeout", options.timeout, "give seconds")
    settings = load_settings({"runtime_dir": options.runtime_dir})
    directory = runtime_dir(settings)
    guard.logger.setLevel(logging.ERROR)  # what the agent would warn of is in the report
    try:
        found = recover(directory, settings, options.timeout)
    except OSError as error:
        raise RecordError(str(directory), f"cannot be used ({error.strerror or error})") from error
    print(f"aiobs: {count(found.records, 'flight record')} found, {found.records - found.left} exported")
    for name in found.damaged:
        print(f"aiobs: {name} cannot be read; it is kept in {directory / 'records' / 'damaged'}")
    if found.left:
        print(f"aiobs: {count(found.left, 'flight record')} left: still being written, or no exporter works")
    if found.waiting:
        print(f"aiobs: {count(found.waiting, 'item')} wait in the spool")
    for problem in found.problems:
        print(f"aiobs: {problem}")
    return 1 if found.left or found.waiting or found.damaged else 0
