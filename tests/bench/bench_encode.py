"""What it costs to encode a span, against opentelemetry-exporter-otlp's encoder in the same run.

Run:  python tests/bench/bench_encode.py
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource as SdkResource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

sys.path.insert(0, str(Path(__file__).parent))
from side import options, table

from aiobs.exporters import json_bodies, protobuf_bodies
from aiobs.ids import random_span_id, random_trace_id
from aiobs.telemetry import Batch, Resource, Row, Shape

SPANS = 20_000
ROUNDS = 5
PHASES = ("data.wait", "forward", "backward", "optimizer", "train step", "loss", "clip")
START = 1_700_000_000_000_000_000
RESOURCE = {"service.name": "trainer", "aiobs.rank": 0, "host.name": "node-1", "process.pid": 4711}


def values(step: int) -> tuple[object, ...]:
    """Five attributes: a step number, a float that never repeats, two words and a flag."""
    return step, step * 0.001234567, "cuda:0", "first", step % 2 == 0


KEYS, TYPES = ("aiobs.step", "aiobs.step.other", "device", "aiobs.step.kept", "skipped"), "qdssb"


def our_batch(attributes: int) -> Batch:
    shapes = [Shape(name, keys=KEYS[:attributes], types=TYPES[:attributes]) for name in PHASES]
    rows: list[Row] = []
    for number in range(SPANS):
        step = number // len(shapes)
        start = START + number * 1000
        shape = shapes[number % len(shapes)]
        trace, span, parent = random_trace_id(), random_span_id(), random_span_id()
        rows.append((shape, trace, span, parent, start, start + 500, values(step)[:attributes], None))
    return Batch(spans=[(Resource(RESOURCE), rows)])


def their_spans(attributes: int) -> list[ReadableSpan]:
    resource, scope = SdkResource(RESOURCE), InstrumentationScope("aiobs", "")
    spans = []
    for number in range(SPANS):
        step = number // len(PHASES)
        trace = int.from_bytes(random_trace_id(), "big")
        parent, own = (int.from_bytes(random_span_id(), "big") for _ in range(2))
        spans.append(
            ReadableSpan(
                PHASES[number % len(PHASES)],
                SpanContext(trace, own, False, TraceFlags(1)),
                SpanContext(trace, parent, False, TraceFlags(1)),
                resource,
                dict(zip(KEYS[:attributes], values(step)[:attributes])),
                start_time=START + number * 1000,
                end_time=START + number * 1000 + 500,
                instrumentation_scope=scope,
            )
        )
    return spans


def microseconds(encode: Callable[[], object]) -> float:
    """Per span, the best of some rounds (noise only ever adds)."""
    best = float("inf")
    for _ in range(ROUNDS):
        gc.collect()
        before = time.perf_counter()
        encode()
        best = min(best, time.perf_counter() - before)
    return best / SPANS * 1e6


def measure(attributes: int) -> dict[str, float]:
    """Microseconds per span by encoder, for spans with so many attributes."""
    batch, spans = our_batch(attributes), their_spans(attributes)
    return {
        "aiobs protobuf": microseconds(lambda: list(protobuf_bodies.bodies(batch, ["traces"]))),
        "aiobs json": microseconds(lambda: list(json_bodies.bodies(batch, ["traces"]))),
        "opentelemetry protobuf": microseconds(lambda: encode_spans(spans).SerializeToString()),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    global SPANS, ROUNDS
    chosen = options(__doc__).parse_args(argv)
    if chosen.quick:
        SPANS, ROUNDS = 500, 1
    found = {f"{attributes} attributes": measure(attributes) for attributes in (0, 5)}
    if chosen.json:
        print(json.dumps(found))
        return 0
    rows = []
    for case, figures in found.items():
        peer = figures["opentelemetry protobuf"]
        rows += [[f"{case}, {name}", cost, f"1/{peer / cost:.1f}"] for name, cost in figures.items()]
    print(table("Encoding a span", ["", "µs", "of OpenTelemetry's"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
