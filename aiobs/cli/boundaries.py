"""``aiobs boundaries``: lives with the verdict, in ``aiobs.chaos.command.boundaries``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType


def _verb() -> ModuleType:
    return importlib.import_module("aiobs.chaos.command.boundaries")


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made: argparse.ArgumentParser = _verb().parser()
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    code: int = _verb().main(argv)
    return code
