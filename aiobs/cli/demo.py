"""``aiobs demo``: lives with the faults that it plays, in ``aiobs.chaos.command.demo``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType


def _verb() -> ModuleType:
    return importlib.import_module("aiobs.chaos.command.demo")


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made: argparse.ArgumentParser = _verb().parser()
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    code: int = _verb().main(argv)
    return code
