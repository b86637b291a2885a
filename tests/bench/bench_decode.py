"""Agent: CPU per span from the flight record to rows, 0 and 5 attributes. Run: python tests/bench/bench_decode.py"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from side import options, table

from aiobs import recorder
from aiobs.agent.assemble import Assembler
from aiobs.agent.reader import FlightReader
from aiobs.recorder import layout
from aiobs.settings import Settings
from aiobs.telemetry import Route

ROUNDS = 7


def _bare() -> None:
    with recorder.span("work"):
        pass


def _five() -> None:
    with recorder.span("work", step=12, loss=0.25, phase="forward", flag=True, path="/some/where/else"):
        pass


def _long() -> None:
    with recorder.span("work", step=12, path="/some/where/else/" * 12):
        pass


def _failing() -> None:
    span = recorder.start_span("work", {"step": 12})
    span.fail("no good")
    span.end()


def measure(name: str, make: Callable[[], None], spans: int) -> dict[str, float | str]:
    """CPU µs per span, median of some rounds, and spans per second of one core."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        recorder.start(Settings(ring_bytes=3 * spans * layout.CELL_BYTES), {}, Route("bench"), Path(folder))
        for _ in range(spans):
            make()
        reader = FlightReader(next(Path(folder).glob("*.fr")))
        costs = []
        for _ in range(ROUNDS):
            reader.position = layout.FIRST_SEQ
            assembler = Assembler(reader.route)
            began = time.process_time()
            taken = 0
            while assembler.add(reader, 8192):
                taken += assembler.take(time.time_ns()).span_count()
            costs.append((time.process_time() - began) / taken * 1e6)
            assert taken == spans
        recorder.stop()
        reader.close()
    cost = median(costs)
    return {"case": name, "us_per_span": round(cost, 3), "spans_per_s": round(1e6 / cost)}


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__).parse_args(argv)
    cases = (("bare", _bare), ("5 attributes", _five), ("two cells", _long), ("failed", _failing))
    found = [measure(name, make, 1_000 if chosen.quick else 20_000) for name, make in cases]
    if chosen.json:
        print(json.dumps(found))
    else:
        print(
            table(
                "From flight record to rows",
                ["", "CPU µs per span", "spans per s"],
                [list(case.values()) for case in found],
            )
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
