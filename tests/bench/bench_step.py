"""What recording adds to a training step: CPU-bound steps of about 1, 10 and 50 ms, run in turn, A B A B.

Sides: no recording; aiobs with its PyTorch patch (data.wait, forward, backward, optimizer and the step itself);
the same five spans written by hand with opentelemetry-sdk (BatchSpanProcessor, OTLP/HTTP). All three train the
same model on the same data in processes of their own; a round is the three one after the other, and what is
compared is the round's ratio.
Run: python tests/bench/bench_step.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from side import median, receiver, table

WORKER = """
import sys, time
side, width, steps, endpoint = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
if side == "aiobs":
    import aiobs
    aiobs.init(service_name="bench")
if side == "otel":
    from contextlib import contextmanager
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint + "/v1/traces")))
    span = provider.get_tracer("bench").start_as_current_span
else:
    from contextlib import nullcontext
    def span(name, attributes=None):
        return nothing
    nothing = nullcontext()
model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
data = torch.utils.data.DataLoader(torch.randn(64 * (steps + 20), width), batch_size=64)
times = []
batches = iter(data)
for number in range(steps + 20):
    start = time.perf_counter()
    if side == "otel":
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
    else:
        batch = next(batches)
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    times.append(time.perf_counter() - start)
times = sorted(times[20:])
print(sum(times[: len(times) * 3 // 4]) / (len(times) * 3 // 4))
"""
WIDTHS = {1: 384, 10: 1536, 50: 3584}
"""Model width that makes a step of about so many ms on the machine this was written on."""


def one(side: str, width: int, steps: int, endpoint: str) -> float:
    """Mean seconds of a step without the slowest quarter, which is other people's noise."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {
            **os.environ,
            "AIOBS_RUNTIME_DIR": f"{folder}/runtime",
            "AIOBS_AGENT_LINGER": "0.5",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", WORKER, side, str(width), str(steps), endpoint],
            capture_output=True, text=True, env=environment, cwd=folder, check=True,
        )  # fmt: skip
        return float(done.stdout.split()[-1])


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args(argv)
    rows = []
    with receiver() as endpoint:
        for size, width in WIDTHS.items():
            if chosen.quick and size > 1:
                continue
            steps = 30 if chosen.quick else max(60, 3000 // size)
            rounds = 1 if chosen.quick else 7
            plain, ours, theirs = [], [], []
            for _ in range(rounds):
                for side, results in (("none", plain), ("aiobs", ours), ("otel", theirs)):
                    results.append(one(side, width, steps, endpoint))
            base = median(plain)
            added = median([a - b for a, b in zip(ours, plain, strict=True)])
            peer = median([a - b for a, b in zip(theirs, plain, strict=True)])
            rows.append([f"{size} ms", base * 1e3, added * 1e6, added / base * 100, peer * 1e6, peer / base * 100])
    head = ["step", "ms without", "aiobs µs", "%", "OTel by hand µs", "%"]
    if chosen.json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows]))
    else:
        print(table("Added to a training step (median of paired rounds)", head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
