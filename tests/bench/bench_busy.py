"""How much a busy main loop suffers while 5,000 spans a second are exported.

A thread makes the spans at that pace; the main thread does nothing but Python arithmetic and notes how long each
small piece took. Sides: the spans not made; aiobs (agent process); aiobs (agent in a thread); opentelemetry-sdk,
whose exporter thread holds the GIL while it encodes. The price of *making* the spans is in all three.
Run: python tests/bench/bench_busy.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from side import median, options, receiver, table

WORKER = """
import os, sys, threading, time
side, seconds, endpoint = sys.argv[1], float(sys.argv[2]), sys.argv[3]
attributes = {"index": 1, "route": "/v1/chat", "ratio": 0.5, "model": "tiny", "cached": True}
if side.startswith("aiobs"):
    import aiobs
    aiobs.init(service_name="bench", join_limit=0, agent="thread" if side.endswith("thread") else "process")
    def once():
        with aiobs.span("request", **attributes):
            pass
elif side == "otel":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint + "/v1/traces"), max_queue_size=20000))
    tracer = provider.get_tracer("bench")
    def once():
        with tracer.start_as_current_span("request", attributes=attributes):
            pass
else:
    def once():
        pass
over = False
def make():
    # In bursts of 50 every 10 ms: a thread that wakes for every span would itself be the disturbance.
    due = time.monotonic()
    while not over:
        for _ in range(50):
            once()
        due += 0.01
        time.sleep(max(0, due - time.monotonic()))
threading.Thread(target=make, daemon=True).start()
time.sleep(1.5)
pieces, clock, end = [], time.perf_counter, time.perf_counter() + seconds
while clock() < end:
    start = clock()
    total = 0
    for i in range(1000):
        total += i
    pieces.append(clock() - start)
over = True
pieces.sort()
print(len(pieces), pieces[int(len(pieces) * 0.999)])
os._exit(0)
"""
SIDES = ("none", "aiobs", "aiobs thread", "otel")


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = options(__doc__)
    chosen = parser.parse_args(argv)
    seconds, rounds = (1.0, 1) if chosen.quick else (5.0, 5)
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    with receiver() as endpoint, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {
            **os.environ, "AIOBS_RUNTIME_DIR": f"{folder}/runtime", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "AIOBS_AGENT_LINGER": "0.5",
        }  # fmt: skip
        for _ in range(rounds):
            for side, results in found.items():
                done = subprocess.run(
                    [sys.executable, "-c", WORKER, side, str(seconds), endpoint],
                    capture_output=True, text=True, env=environment, cwd=folder, check=True,
                )  # fmt: skip
                count, tail = done.stdout.split()
                results.append((float(count), float(tail)))
    base = found["none"]
    rows = []
    for side in SIDES[1:]:
        slower = median([(b[0] / r[0] - 1) * 100 for r, b in zip(found[side], base, strict=True)])
        tail = median([(r[1] - b[1]) * 1e3 for r, b in zip(found[side], base, strict=True)])
        rows.append([side, slower, tail])
    head = ["", "slower %", "p99.9 stall added ms"]
    print(
        json.dumps([dict(zip(head, row, strict=True)) for row in rows])
        if chosen.json
        else table("Busy main loop at 5,000 spans/s", head, rows)
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
