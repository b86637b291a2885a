"""A language model server in small: replicas of a continuous-batching engine behind a router, all on this machine.

    aiobs run -- python examples/serve_llm.py --replicas 3 --port 8000

    curl -N localhost:8000/v1/completions -H 'content-type: application/json' \\
        -d '{"model": "bytes-470k", "prompt": "Hello", "max_tokens": 20, "stream": true}'

The router listens on `--port`, the replicas on the ports behind it; a replica that dies is started again. Each part
can also be run by itself, wherever it shall be (`serve_llm.py replica --help`, `serve_llm.py router --help`).
Ctrl-C or SIGTERM ends everything in order.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

MODEL = "bytes-470k"
RESTART_S = 1.0
ENDING_S = 10.0


def main() -> int:
    """Run what the command line says."""
    chosen = _options().parse_args()
    return {"all": run_all, "replica": run_replica, "router": run_router}[chosen.part or "all"](chosen)


def run_all(chosen: argparse.Namespace) -> int:
    """Start router and replicas, start again what dies, until a signal comes."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    ports = [chosen.port + 1 + index for index in range(chosen.replicas)]
    urls = [f"http://{chosen.host}:{port}" for port in ports]
    passed_on = [part for name in ENGINE for part in (f"--{name}", str(getattr(chosen, name.replace("-", "_"))))]
    parts = [_Part("llm-router", "router", ["router", "--port", str(chosen.port), *urls], chosen.host)]
    for index, port in enumerate(ports):
        words = ["replica", "--port", str(port), *passed_on]
        parts.append(_Part("llm-server", f"replica-{index}", words, chosen.host))
    for part in parts:
        part.start()
    ready = False
    while not over.wait(0.1):
        for part in parts:
            part.look_after()
        if not ready and all(_listens(chosen.host, port) for port in (chosen.port, *ports)):
            ready = True
            print(f"ready: http://{chosen.host}:{chosen.port}, {chosen.replicas} replicas", flush=True)
    codes = []
    for some in (parts[:1], parts[1:]):  # first the router, so that nobody is sent to a replica that ends
        for part in some:
            part.tell_to_end()
        codes += [part.end() for part in some]
    return max(codes)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


class _Part:
    """One process: the router or a replica. It ends when this one does, for it reads our end of a pipe."""

    def __init__(self, service: str, name: str, words: list[str], host: str) -> None:
        self._command = [sys.executable, os.path.abspath(__file__), *words, "--host", host, "--with-parent"]
        given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        identity = f"service.instance.id={name},aiobs.replica={name}"
        self._environment = {
            **os.environ, "OTEL_SERVICE_NAME": service, "OTEL_RESOURCE_ATTRIBUTES": f"{given},{identity}".strip(","),
        }  # fmt: skip
        self._again = 0.0

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.PIPE)

    def look_after(self) -> None:
        """Start it again a moment after it has died."""
        if self._process.poll() is None:
            return
        if not self._again:
            self._again = time.monotonic() + RESTART_S
        elif time.monotonic() >= self._again:
            self._again = 0.0
            self.start()

    def tell_to_end(self) -> None:
        """Have it end in order. Once only: a second signal would hit an interpreter that no longer handles any."""
        self._process.terminate()

    def end(self) -> int:
        """Wait until it has ended; returns its exit code."""
        try:
            return abs(self._process.wait(ENDING_S))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return abs(self._process.wait())


ENGINE = {
    "seed": (0, "seed of the model's weights"),
    "blocks": (512, "blocks of the cache"),
    "block-size": (16, "tokens of a block"),
    "max-batch": (64, "requests that run at once"),
    "step-tokens": (256, "tokens that a step runs at most"),
    "pace": (0, "least duration of a step, ms: for a schedule that does not depend on the machine"),
}


def run_replica(chosen: argparse.Namespace) -> int:
    """Serve the model."""
    import torch
    from llm.engine import Engine
    from llm.model import Transformer
    from llm.paced import Paced
    from llm.server import create_app

    torch.set_num_threads(1)
    model = Paced(Transformer(chosen.seed), chosen.pace / 1e3)
    limits = {name: getattr(chosen, name) for name in ("blocks", "block_size", "max_batch", "step_tokens")}
    return _serve(create_app(MODEL, lambda dispatch: Engine(model, dispatch, **limits)), chosen)


def run_router(chosen: argparse.Namespace) -> int:
    """Route to replicas."""
    from llm.router import create_app

    return _serve(create_app(chosen.replica), chosen)


def _serve(app: FastAPI, chosen: argparse.Namespace) -> int:
    import uvicorn

    # uvicorn ends in order, then raises the signal it was sent once more: that must not be what ends us.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    if chosen.with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run(app, host=chosen.host, port=chosen.port, log_level="warning", timeout_graceful_shutdown=5, backlog=4096)
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=3, help="how many (default 3)")
    parts = parser.add_subparsers(dest="part", required=False, metavar="PART")
    replica = parts.add_parser("replica", help="one replica alone")
    router = parts.add_parser("router", help="the router alone")
    router.add_argument("replica", nargs="+", metavar="URL", help="address of a replica")
    for each in (parser, replica, router):
        each.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        each.add_argument("--port", type=int, default=8000, help="port to listen on (default 8000)")
    for each in (replica, router):
        each.add_argument("--with-parent", action="store_true", help="end when standard input is closed")
    for each in (parser, replica):
        for name, (value, text) in ENGINE.items():
            each.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default {value})")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
