"""``aiobs chaos sign``: the baggage entry that lets faults hit a request."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from aiobs.chaos.points.scope import read_key, sign
from aiobs.errors import PlanError
from aiobs.propagation import CHAOS_BAGGAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Print ``aiobs.chaos=…`` for the ``baggage`` header of test requests; 2 where it cannot be made."""
    parser = argparse.ArgumentParser("aiobs chaos sign", description="Make the signed baggage entry of test traffic.")
    parser.add_argument("run", help="the run named in the faults that may hit these requests")
    parser.add_argument(
        "--key", required=True, help="where the key is: file:<path> or env:<name>, never the key itself"
    )
    parser.add_argument("--lasts", type=float, default=600.0, metavar="S", help="seconds it is good for (default: 600)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the traces that is hit (default: 1)")
    given = parser.parse_args(argv)
    try:
        entry = sign(read_key(given.key), given.run, given.lasts, given.share)
    except PlanError as error:
        print(f"aiobs chaos sign: {error}", file=sys.stderr)
        return 2
    print(f"{CHAOS_BAGGAGE}={entry}")
    return 0
