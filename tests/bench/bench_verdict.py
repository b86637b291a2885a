"""A run folder to a verdict: seconds and memory for each million spans."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import side

SPEC = {
    "boundaries": [{"each": "aiobs.replica"}],
    "permitted": ["aiobs.replica=b"],
    "slos": [{
        "apiVersion": "openslo/v1", "kind": "SLO", "metadata": {"name": "availability"},
        "spec": {"indicator": {"spec": {"ratioMetric": {"bad": {"metricSource": {"type": "aiobs", "spec": {"sli": "availability"}}}}}},
                 "objectives": [{"target": 0.99}]},
    }],
    "margins": {"availability": 0.03},
}  # fmt: skip
BEGIN = 1_800_000_000 * 10**9


def pairs(found: dict[str, str]) -> list[object]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in found.items()]


def write(path: Path, count: int) -> None:
    """90 s of requests to three replicas, one of them dead from 30 s to 64 s, the fault undone at 60 s."""
    rng = random.Random(7)
    step = 90 * 10**9 // count
    with path.open("w") as file:
        for line in range(0, count, 500):
            replica, spans = "abc"[line // 500 % 3], []
            for place in range(line, line + 500):
                at = place * step
                bad = (replica == "b" and 30e9 <= at < 64e9) or rng.random() < 0.003
                spans.append({
                    "traceId": f"{rng.getrandbits(128):032x}", "spanId": f"{rng.getrandbits(64):016x}", "name": "POST /v1/chat", "kind": 2,
                    "startTimeUnixNano": str(BEGIN + at), "endTimeUnixNano": str(BEGIN + at + 50_000_000),
                    "attributes": pairs({"http.route": "/v1/chat", "http.response.status_code": "503" if bad else "200", "aiobs.tenant": "t",
                                         "gen_ai.request.model": "m"}),
                    "status": {"code": 2} if bad else {},
                })  # fmt: skip
            put(file, {"service.name": "llm", "aiobs.replica": replica}, spans)
        fault = {
            "traceId": "f" * 32, "spanId": "f" * 16, "name": "fault process.kill", "startTimeUnixNano": str(BEGIN + 30 * 10**9),
            "endTimeUnixNano": str(BEGIN + 60 * 10**9), "attributes": pairs({"aiobs.fault.id": "f1"}),
        }  # fmt: skip
        put(file, {"service.name": "chaos"}, [fault])


def put(file: object, about: dict[str, str], spans: list[object]) -> None:
    group = {"resource": {"attributes": pairs(about)}, "scopeSpans": [{"spans": spans}]}
    print(json.dumps({"resourceSpans": [group]}, separators=(",", ":")), file=file)  # type: ignore[call-overload]


def main() -> None:
    parser = side.options(__doc__)
    parser.add_argument("--spans", type=int, default=1_000_000)
    options = parser.parse_args()
    count = 30_000 if options.quick else options.spans
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "traces.jsonl"), count)
        Path(folder, "spec.json").write_text(json.dumps(SPEC))
        begin = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-m", "aiobs.cli", "verdict", folder, "--spec", str(Path(folder, "spec.json")), "--json"],
            capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        size = Path(folder, "traces.jsonl").stat().st_size
    assert ran.returncode == 0, ran.stderr + ran.stdout
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found = {"spans": count, "megabytes": size / 1e6, "seconds": seconds, "peak_mib": peak}
    print(
        json.dumps(found) if options.json else side.table("run folder to verdict", list(found), [list(found.values())])
    )


if __name__ == "__main__":
    main()
