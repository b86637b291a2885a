"""CPU of the whole pipeline per exported span with 5 attributes over OTLP/HTTP: application and agent apart.

Peer: opentelemetry-sdk with BatchSpanProcessor and the OTLP/HTTP exporter, same spans, same pace, same receiver.
Run: python tests/bench/bench_pipeline.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from side import cpu_s, median, options, receiver, table

from aiobs.agent.selfstats import read_status

WORKER = """
import os, resource, sys, time
peer, count, rate, endpoint = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if peer == "aiobs":
    import aiobs
    aiobs.init(service_name="bench", join_limit=0)
    def once(i):
        with aiobs.span("request", index=i, route="/v1/chat", ratio=0.5, model="tiny", cached=True):
            pass
    end = aiobs.shutdown
elif peer == "otel":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint + "/v1/traces"), schedule_delay_millis=500, max_queue_size=20000))
    tracer = provider.get_tracer("bench")
    def once(i):
        with tracer.start_as_current_span("request", attributes={"index": i, "route": "/v1/chat", "ratio": 0.5, "model": "tiny", "cached": True}):
            pass
    end = provider.shutdown
else:
    def once(i):
        pass
    def end():
        pass
usage = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
for i in range(200):
    once(i)
time.sleep(1)
before, start, chunk = usage(), time.monotonic(), max(1, rate // 100)
for first in range(0, count, chunk):
    for i in range(first, first + chunk):
        once(i)
    time.sleep(max(0, start + (first + chunk) / rate - time.monotonic()))
end()
print(usage() - before, flush=True)
"""


def one(peer: str, count: int, rate: int, endpoint: str) -> tuple[float, float]:
    """CPU seconds of (application, agent) for `count` spans."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {
            **os.environ, "AIOBS_RUNTIME_DIR": f"{folder}/runtime", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "AIOBS_AGENT_LINGER": "1",
        }  # fmt: skip
        child = subprocess.Popen(
            [sys.executable, "-c", WORKER, peer, str(count), str(rate), endpoint],
            stdout=subprocess.PIPE, text=True, env=environment, cwd=folder,
        )  # fmt: skip
        agent = idle = None
        if peer == "aiobs":
            agent = _agent(Path(folder) / "runtime")
            time.sleep(0.7)
            idle = cpu_s(agent)
        out, _ = child.communicate(timeout=600)
        used = 0.0
        if agent is not None and idle is not None:
            records = Path(folder) / "runtime" / "records"
            deadline = time.monotonic() + 60
            while any(records.glob("*.fr")) or any((Path(folder) / "runtime" / "spool").rglob("*.body")):
                used = cpu_s(agent) - idle
                if time.monotonic() > deadline:
                    raise TimeoutError("the agent did not finish in 60 s")
                time.sleep(0.02)
            used = max(used, cpu_s(agent) - idle)
        return float(out.split()[-1]), used


def _agent(runtime: Path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status = read_status(runtime)
        if status:
            return int(status["pid"])
        time.sleep(0.02)
    raise TimeoutError("no agent came up")


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--rate", type=int, default=10_000, help="spans per second")
    chosen = parser.parse_args(argv)
    count, rounds = (2_000, 1) if chosen.quick else (60_000, 3)
    found: dict[str, list[tuple[float, float]]] = {"none": [], "aiobs": [], "otel": []}
    with receiver() as endpoint:
        for _ in range(rounds):
            for peer, results in found.items():
                results.append(one(peer, count, chosen.rate, endpoint))
    idle = median([app for app, _ in found["none"]])
    rows = []
    for peer in ("aiobs", "otel"):
        app = (median([app for app, _ in found[peer]]) - idle) / count * 1e6
        agent = median([agent for _, agent in found[peer]]) / count * 1e6
        rows.append([peer, app, agent, app + agent])
    ratio = rows[1][3] / rows[0][3]
    if chosen.json:
        print(
            json.dumps(
                {
                    "us_per_span": {row[0]: {"application": row[1], "agent": row[2], "total": row[3]} for row in rows},
                    "ratio": ratio,
                }
            )
        )
    else:
        print(table(f"CPU µs per span, {count} spans at {chosen.rate}/s", ["", "application", "agent", "total"], rows))
        print(f"opentelemetry-sdk / aiobs: {ratio:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
