"""``aiobs chaos``: the verbs of fault injection live with it, in ``aiobs.chaos.command``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType


def _verbs() -> ModuleType:
    return importlib.import_module("aiobs.chaos.command")


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made: argparse.ArgumentParser = _verbs().parser()
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    code: int = _verbs().main(argv)
    return code
