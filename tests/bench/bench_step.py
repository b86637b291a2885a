"""What recording adds to a training step: CPU-bound steps of about 0.5, 2.5, 10 and 50 ms.

Sides: no recording; aiobs with its PyTorch patch (data.wait, forward, backward, optimizer and the step itself); the
same five spans written by hand with opentelemetry-sdk (BatchSpanProcessor, OTLP/HTTP). The sides take turns in one
process, some steps each, because two processes that run the same code differ by more than what is measured here;
what is compared is the median step of neighbouring turns.
Run: python tests/bench/bench_step.py
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
import json, sys, time
from contextlib import nullcontext
width, steps, rounds, endpoint = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
import aiobs
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint + "/v1/traces")))
recorded = provider.get_tracer("bench").start_as_current_span
nothing = nullcontext()
def none(name, attributes=None):
    return nothing
model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
WARM = 10
data = torch.utils.data.DataLoader(torch.randn(64 * (steps + WARM), width), batch_size=64)

def train(span):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    times, batches = [], iter(data)
    for number in range(steps + WARM):
        start = time.perf_counter()
        with span("train step", attributes={"step": number}):
            with span("data.wait"):
                batch = next(batches)
            with span("forward"):
                loss = model(batch).square().mean()
            with span("backward"):
                loss.backward()
            with span("optimizer"):
                optimizer.step()
            optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    times = sorted(times[WARM:])
    return times[len(times) // 2]

found = []
for number in range(rounds):
    turn = []
    for side in ("none", "aiobs", "otel"):
        if side == "aiobs":
            aiobs.init(service_name="bench", patches_off=["opentelemetry"])
        turn.append(train(recorded if side == "otel" else none))
        if side == "aiobs":
            aiobs.shutdown()
    found.append(turn)
print(json.dumps(found))
"""
WIDTHS = {"0.5 ms": 384, "2.5 ms": 896, "10 ms": 1536, "50 ms": 3584}
"""Model width that makes a step of about that length on the machine this was written on."""


def one(width: int, steps: int, rounds: int, endpoint: str) -> list[list[float]]:
    """Median seconds of a step, by round and side."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        variables = {"AIOBS_RUNTIME_DIR": f"{folder}/runtime", "AIOBS_AGENT_LINGER": "2", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", WORKER, str(width), str(steps), str(rounds), endpoint],
            capture_output=True, text=True, env={**os.environ, **variables}, cwd=folder, check=True,
        )  # fmt: skip
        found: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
        return found


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = options(__doc__)
    chosen = parser.parse_args(argv)
    rows = []
    with receiver() as endpoint:
        for size, width in list(WIDTHS.items())[: 1 if chosen.quick else None]:
            steps = 20 if chosen.quick else max(20, int(400 / float(size.split()[0])))
            found = one(width, steps, 2 if chosen.quick else 15, endpoint)
            base = median([turn[0] for turn in found])
            ours = median([turn[1] - turn[0] for turn in found])
            peer = median([turn[2] - turn[0] for turn in found])
            rows.append([size, base * 1e3, ours * 1e6, ours / base * 100, peer * 1e6, peer / base * 100])
    head = ["step of", "ms without", "aiobs µs", "aiobs %", "OTel µs", "OTel %"]
    if chosen.json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows]))
    else:
        print(table("Added to a training step (median over paired turns)", head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
