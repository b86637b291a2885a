"""A run folder to a verdict: seconds and memory for each million spans."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
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


def of_tree(root: int) -> float:
    """MiB in memory of a process and all that it started, now."""
    pages, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        pages[int(stat.parent.name)], parents[int(stat.parent.name)] = int(fields[21]), int(fields[1])
    found, before = {root}, 0
    while len(found) != before:
        before = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return sum(pages.get(pid, 0) for pid in found) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(count: int, files: int) -> dict[str, float]:
    """Judge a folder of `count` spans in `files` files."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "traces.jsonl")
        write(whole, count)
        size = whole.stat().st_size
        if files > 1:
            with whole.open() as lines, ExitStack() as parts:
                each = [parts.enter_context(Path(folder, f"traces-{it}.jsonl").open("w")) for it in range(files)]
                for place, line in enumerate(lines):
                    each[place % files].write(line)
            whole.unlink()
        Path(folder, "spec.json").write_text(json.dumps(SPEC))
        before, begin = os.times(), time.perf_counter()
        ran = subprocess.Popen(
            [sys.executable, "-m", "aiobs.cli", "verdict", folder, "--spec", str(Path(folder, "spec.json")), "--json"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        peak, done = [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                peak.append(of_tree(ran.pid))

        watching = threading.Thread(target=watch)
        watching.start()
        told = ran.communicate()[0]
        seconds, after = time.perf_counter() - begin, os.times()
        done.set()
        watching.join()
    assert ran.returncode == 0, told
    assert json.loads(told)[0]["raw"]["spans"] == count
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "spans": count,
        "files": files,
        "megabytes": size / 1e6,
        "seconds": seconds,
        "cpu_s": cpu,
        "peak_mib": max(peak),
    }


def main() -> None:
    parser = side.options(__doc__)
    parser.add_argument("--spans", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--files", type=int, default=1, help="files the spans are spread over")
    options = parser.parse_args()
    found = [measure(count, options.files) for count in ([30_000] if options.quick else options.spans)]
    if options.json:
        print(json.dumps(found))
        return
    print(side.table("run folder to verdict", list(found[0]), [list(row.values()) for row in found]))
    first, last = found[0], found[-1]
    if len(found) > 1:
        grown = last["cpu_s"] / last["spans"] / (first["cpu_s"] / first["spans"])
        print(f"CPU for each span at {last['spans']:.0f} over that at {first['spans']:.0f}: {grown:.2f}")


if __name__ == "__main__":
    main()
