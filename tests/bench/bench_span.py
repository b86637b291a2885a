"""What a span costs on the application's thread, in a tight loop.

Sides: aiobs with its compiled core and in pure Python, recording into its crash-safe file as after
``aiobs.init()``; opentelemetry-sdk with a BatchSpanProcessor whose exporter throws everything away, and
OpenTelemetry without an SDK. Each side runs in a process of its own; a round is the sides one after the other, and
what is compared is the round's ratio.
Run: python tests/bench/bench_span.py [--quick] [--json]
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
from side import median, table

WORKER = """
import json, sys, time
side, count, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
aiobs_side = side in ("compiled", "pure")
if aiobs_side:
    import aiobs
    from aiobs import recorder
    aiobs.init(service_name="bench")
    assert recorder.core_name() == side, f"{side} wanted, {recorder.core_name()} there"
    span = aiobs.span
else:
    from opentelemetry import trace
    if side == "otel":
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
        class Discard(SpanExporter):
            def export(self, spans):
                return SpanExportResult.SUCCESS
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(Discard()))
        trace.set_tracer_provider(provider)
    span = trace.get_tracer("bench").start_as_current_span

def bare(n):
    for _ in range(n):
        with span("work"):
            pass

if aiobs_side:
    def five(n):
        for i in range(n):
            with span("work", number=i, name="resnet", ratio=0.5, cached=True, place="cuda:0"):
                pass
else:
    def five(n):
        for i in range(n):
            with span("work", attributes={"number": i, "name": "resnet", "ratio": 0.5, "cached": True, "place": "cuda:0"}):
                pass

def nested(n):
    with span("around"):
        bare(n)

results = {}
def measure(name, function):
    function(count // 10)
    for _ in range(repeats):
        start = time.perf_counter()
        function(count)
        results.setdefault(name, []).append((time.perf_counter() - start) / count * 1e9)

if side == "no sdk":
    measure("bare span", bare)
    measure("span, 5 attributes", five)
    measure("span in a span", nested)
else:
    measure("bare span", bare)
    measure("span, 5 attributes", five)
    measure("span in a span", nested)
    if aiobs_side:
        forward, steps = aiobs.phase("forward"), recorder.steps()
        def phase(n):
            for _ in range(0, n, 100):
                for _ in range(100):
                    with forward:
                        pass
                steps.close()
        def inside(n):
            with forward:
                bare(n)
        measure("phase", phase)
        measure("span in a phase", inside)
        steps.close()
        recorder.stop()
        measure("disabled span", bare)
    else:
        results["phase"] = results["bare span"]
        results["span in a phase"] = results["span in a span"]
print(json.dumps({name: sorted(values)[len(values) // 2] for name, values in results.items()}))
"""
SIDES = ("compiled", "pure", "otel", "no sdk")
WHAT = ("bare span", "span, 5 attributes", "span in a span", "phase", "span in a phase", "disabled span")


def one(side: str, count: int, repeats: int) -> dict[str, float]:
    """Median ns of each thing on one side, in a new process."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        own = {"AIOBS_RUNTIME_DIR": f"{folder}/runtime", "AIOBS_AGENT": "off", "AIOBS_PURE": str(int(side == "pure"))}
        command = [sys.executable, "-c", WORKER, side, str(count), str(repeats)]
        ran = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{side}: {ran.stderr}")
    measured: dict[str, float] = json.loads(ran.stdout)
    return measured


def has_core() -> bool:
    """Whether this installation has a compiled core."""
    command = [sys.executable, "-c", "from aiobs import recorder; print(recorder.core_name())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "compiled"


def main(argv: list[str] | None = None) -> None:
    """Measure, and print a table or JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="once, to see that it runs")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args(argv)
    count, repeats, rounds = (500, 1, 1) if chosen.quick else (10_000, 5, 7)
    sides = [side for side in SIDES if side != "compiled" or has_core()]
    found: dict[str, dict[str, list[float]]] = {what: {side: [] for side in sides} for what in WHAT}
    for _ in range(rounds):
        for side in sides:
            for what, ns in one(side, count, repeats).items():
                found[what][side].append(ns)
    result: dict[str, dict[str, float]] = {}
    for what, by_side in found.items():
        row = result[what] = {f"{side}_ns": median(values) for side, values in by_side.items() if values}
        for side in ("compiled", "pure"):
            peer = by_side["no sdk" if what == "disabled span" else "otel"] or found["bare span"]["no sdk"]
            if by_side.get(side):
                row[f"{side}_ratio"] = median([theirs / ours for theirs, ours in zip(peer, by_side[side], strict=True)])
    if chosen.json:
        print(json.dumps(result))
        return
    head = ["ns", *sides, *(f"otel / {side}" for side in ("compiled", "pure") if side in sides)]
    keys = [*(f"{side}_ns" for side in sides), *(f"{side}_ratio" for side in ("compiled", "pure") if side in sides)]
    rows = [[what, *(row.get(key, "-") for key in keys)] for what, row in result.items()]
    title = f"A span on the application's thread (medians of {rounds} rounds; disabled: against no SDK)"
    print(table(title, head, rows))


if __name__ == "__main__":
    main()
