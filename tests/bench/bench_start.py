"""Import, init, modules and memory: a fresh interpreter each, against the OpenTelemetry SDK set up for OTLP/HTTP.

Run: python tests/bench/bench_start.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from side import median, options, table

WORKER = """
import sys, time
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def unique():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith(("Pss:",))) * 1024
side = sys.argv[1]
memory, before = unique(), set(sys.modules)
first = time.perf_counter()
if side == "aiobs":
    import aiobs
    second = time.perf_counter()
    aiobs.init(service_name="bench")
elif side == "otel":
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    second = time.perf_counter()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter("http://127.0.0.1:9/v1/traces")))
    trace.set_tracer_provider(provider)
else:
    second = first
third = time.perf_counter()
print(second - first, third - second, len(set(sys.modules) - before), unique() - memory)
import os
os._exit(0)
"""


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = options(__doc__)
    chosen = parser.parse_args(argv)
    found: dict[str, list[list[float]]] = {"aiobs": [], "otel": []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # A record that stays keeps the agent alive, so that init() meets one, as on a host with several ranks.
        environment = {**os.environ, "AIOBS_RUNTIME_DIR": f"{folder}/runtime", "AIOBS_AGENT_LINGER": "20"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users have their modules compiled
        for _ in range(1 if chosen.quick else 15):
            for side, results in found.items():
                done = subprocess.run(
                    [sys.executable, "-c", WORKER, side],
                    capture_output=True,
                    text=True,
                    env=environment,
                    cwd=folder,
                    check=True,
                )
                results.append([float(word) for word in done.stdout.split()])
    head = ["", "import ms", "init ms", "modules", "memory MiB"]
    rows = []
    for side, results in found.items():
        columns = [median(column) for column in zip(*results, strict=True)]
        rows.append([side, columns[0] * 1e3, columns[1] * 1e3, columns[2], columns[3] / 2**20])
    print(
        json.dumps([dict(zip(head, row, strict=True)) for row in rows]) if chosen.json else table("Start", head, rows)
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
