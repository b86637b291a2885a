"""What watching costs the reference engine: throughput and the 99th percentile of the time between two tokens.

Two settings. `server`: a replica of examples/serve_llm.py under `aiobs run` and one without, asked over HTTP by this
process, which is not watched. `engine`: the engine alone, without HTTP, all requests at once. Both sides of a setting
stay up; rounds alternate between them, in turn beginning with either, and the ratio is the median of the rounds' ratios.
A throughput ratio below 1 and a latency ratio above 1 are the price.
Run: python tests/bench/bench_serving_engine.py
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[2] / "examples"))
from llm import load
from side import median, options, table

ROOT = Path(__file__).parents[2]
SIDES = ("off", "on")
WORKER = """
import json, sys, threading, time
sys.path.append(sys.argv[2])
import torch
from llm import observed
torch.set_num_threads(1)
if sys.argv[1] == "on":
    import aiobs
    aiobs.init(service_name="bench", join_limit=0)
else:
    observed.aiobs = None
from llm.engine import Engine, Generation
from llm.model import Transformer
done, gaps, last, left = threading.Event(), [], {}, 0
def dispatch(news):
    global left
    now = time.perf_counter()
    for it, token, reason in news:
        if it.number in last:
            gaps.append(now - last[it.number])
        last[it.number] = now
        left -= bool(reason)
    if not left:
        done.set()
engine = Engine(Transformer(), dispatch, max_batch=32)
engine.start()
print("ready", flush=True)
for line in sys.stdin:
    requests, tokens = map(int, line.split())
    gaps.clear(); last.clear(); done.clear()
    left, began = requests, time.perf_counter()
    for _ in range(requests):
        seen = observed.engine_request("bench", "text_completion", {"max_tokens": tokens}, 40)
        engine.submit(Generation(list(range(40, 80)), tokens, seen, ignore_end=True))
    done.wait()
    span = time.perf_counter() - began
    gaps.sort()
    print(json.dumps([requests * tokens / span, gaps[len(gaps) * 99 // 100]]), flush=True)
"""

Ask = Callable[[], "tuple[float, float]"]
"""Runs one round; gives tokens a second, and the 99th percentile of the seconds between two tokens."""


@contextmanager
def engine_alone(side: str, environment: dict[str, str], folder: Path, requests: int, tokens: int) -> Iterator[Ask]:
    """The engine in a process of its own."""
    command = [sys.executable, "-c", WORKER, side, str(ROOT / "examples")]
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        stdin, stdout = worker.stdin, worker.stdout
        assert stdin is not None
        assert stdout is not None
        stdout.readline()

        def ask() -> tuple[float, float]:
            stdin.write(f"{requests} {tokens}\n")
            stdin.flush()
            rate, tail = json.loads(stdout.readline())
            return rate, tail

        yield ask
        stdin.close()


@contextmanager
def server(side: str, environment: dict[str, str], folder: Path, requests: int, tokens: int) -> Iterator[Ask]:
    """A replica behind HTTP."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, str(ROOT / "examples" / "serve_llm.py"), "replica", "--port", str(port)]
    if side == "on":
        command = [sys.executable, "-m", "aiobs.cli", "run", "--quiet", "--", *command]
    asks = load.schedule(requests, 0, (40, 40), (tokens, tokens), (), 0)
    with subprocess.Popen(command, env=environment, cwd=folder) as replica:
        try:
            _wait(port)

            def ask() -> tuple[float, float]:
                said = load.report(asyncio.run(load.run(f"http://127.0.0.1:{port}", asks)))
                assert said["whole"] == requests, said["errors"]
                return said["tokens_per_s"], said["itl"]["p99"] / 1e3

            yield ask
        finally:
            replica.terminate()


def _wait(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the replica does not listen")


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = options(__doc__)
    chosen = parser.parse_args(argv)
    settings = {"engine": (engine_alone, 64, 64, 40), "server": (server, 48, 48, 16)}
    found, rows = {}, []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        environment = {
            **os.environ, "AIOBS_RUNTIME_DIR": f"{name}/runtime", "AIOBS_AGENT_LINGER": "0.5", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        for setting, (start, requests, tokens, rounds) in settings.items():
            if chosen.quick:
                requests, tokens, rounds = 8, 8, 2
            with (
                start("off", environment, Path(name), requests, tokens) as off,
                start("on", environment, Path(name), requests, tokens) as on,
            ):
                asked = {"off": off, "on": on}
                results: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
                for each in asked.values():
                    each()
                for turn in range(rounds):
                    for side in SIDES if turn % 2 else reversed(SIDES):
                        results[side].append(asked[side]())
            pairs = list(zip(results["off"], results["on"], strict=True))
            figures = {
                "tokens/s off": median([rate for rate, _ in results["off"]]),
                "tokens/s on": median([rate for rate, _ in results["on"]]),
                "throughput ratio": median([b[0] / a[0] for a, b in pairs]),
                "p99 ms off": median([tail * 1e3 for _, tail in results["off"]]),
                "p99 ms on": median([tail * 1e3 for _, tail in results["on"]]),
                "p99 ratio": median([b[1] / a[1] for a, b in pairs]),
            }
            found[setting] = figures
            rows.append([setting, *figures.values()])
    head = ["", *next(iter(found.values()))]
    print(json.dumps(found) if chosen.json else table("The reference engine, watched and not", head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
