"""``aiobs chaos``: the verbs of fault injection live with it, in ``aiobs.chaos.command``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    code: int = importlib.import_module("aiobs.chaos.command").main(argv)
    return code
