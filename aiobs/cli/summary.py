"""``aiobs summary``: what happened in a run, read from its run folder."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence

from aiobs.cli.report import report
from aiobs.cli.report_text import render
from aiobs.cli.run_folder import find_run


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog="aiobs summary",
        description="What happened in a run: steps and phases, requests and engines, what was slow, what died and how.",
    )
    made.add_argument("run", nargs="?", help="run folder, or its name in aiobs-runs/; default: the newest there")
    made.add_argument(
        "--json", action="store_true", help="everything as JSON; times in seconds, points in time in Unix ns"
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parser().parse_args(argv)
    found = report(find_run(options.run))
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    color = sys.stdout.isatty()
    width = shutil.get_terminal_size((100, 24)).columns if color else 160
    print("\n".join(render(found, width=width, color=color)))
    return 0
