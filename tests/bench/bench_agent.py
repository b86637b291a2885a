"""The agent flat out: spans a second and CPU a span, from a full flight record to files or to an OTLP receiver.

Run: python tests/bench/bench_agent.py
The record is made by the real recorder and read by the real loop;
the receiver takes the requests and forgets them, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from side import median, options, receiver, table

from aiobs import recorder
from aiobs.recorder.location import runtime_dir
from aiobs.settings import Settings
from aiobs.telemetry import Route

SPANS = 100_000
REPEATS = 3


def measure(exporter: str, endpoint: str, spans: int) -> tuple[float, float]:
    """Spans per second and µs of CPU per span, of the agent's process."""
    with tempfile.TemporaryDirectory() as temporary:
        ring = (spans + 1000) * 192
        settings = Settings(runtime_dir=temporary + "/aiobs", ring_bytes=ring)
        folder = runtime_dir(settings)
        route = Route(
            "bench",
            exporters=(exporter,),
            run_dir=temporary + "/run",
            environment={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        )
        recorder.start(settings, {"service.name": "bench"}, route, folder / "records")
        for number in range(spans):
            with recorder.span("work", a=number, b=1.5, c="text", d=True, e="more text"):
                pass
        recorder.stop(0)
        code = (
            "import sys, time, json\nfrom pathlib import Path\nfrom aiobs.agent.loop import Agent\n"
            "agent = Agent(Path(sys.argv[1]), spool_bytes=1 << 30, version='bench')\n"
            "wall, cpu = time.perf_counter(), time.process_time()\n"
            "while True:\n"
            "    agent.turn()\n"
            "    if agent.idle_since is not None: break\n"
            "    if not agent.draining: agent.wait()\n"
            "print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))\n"
            "agent.close()\n"
        )
        answer = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
        wall_s, cpu_s = json.loads(answer.stdout.splitlines()[-1])
        return spans / wall_s, cpu_s / spans * 1e6


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__).parse_args(argv)
    spans, repeats = (2_000, 1) if chosen.quick else (SPANS, REPEATS)
    rows = []
    with receiver() as endpoint:
        for exporter in ("jsonl", "otlp"):
            rates, costs = zip(*(measure(exporter, endpoint, spans) for _ in range(repeats)), strict=True)
            rows.append([exporter, round(median(rates)), median(costs)])
    head = ["exporter", "spans per s", "CPU µs per span"]
    if chosen.json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows]))
    else:
        print(table(f"The agent flat out, {spans:,} spans of 5 attributes", head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
