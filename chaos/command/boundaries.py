"""``aiobs boundaries suggest FOLDER``: by which boundaries a run could be judged."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from aiobs.chaos.containment.boundaries import suggest
from aiobs.chaos.containment.exit_codes import EXIT_CODES
from aiobs.chaos.containment.model import Spec
from aiobs.chaos.containment.run_folder import RunFolder
from aiobs.chaos.containment.sources.collector import readable


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(prog="aiobs boundaries", description="By which boundaries could a run be judged?")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")
    verb = verbs.add_parser("suggest", help="attributes of a run that tell its units apart, as the begin of a spec")
    verb.add_argument("folder", help="a run folder, or files of a Collector's file exporter")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    return show(Path(parser().parse_args(list(argv)).folder))


def show(folder: Path) -> int:
    """Print what `folder` suggests. Raises RecordError where it cannot be read."""
    with ExitStack() as stack:
        source = RunFolder(readable(folder, stack), Spec((), ()))
        stack.callback(source.close)
        found = suggest(source.seen().values)
    if not found:
        print("# Nothing tells units apart: no attribute of a replica, rank, tenant, instance or host has two values.")
        return EXIT_CODES["inconclusive"]
    print("boundaries:")
    for attribute, values in found:
        shown = ", ".join(values[:8]) + (", ..." if len(values) > 8 else "")
        print(f"  - each: {attribute}  # {len(values)}: {shown}")
    return 0
