"""A language model server in small: replicas of a continuous-batching engine behind a router, all on this machine.

    aiobs run -- python examples/serve_llm.py --replicas 3 --port 8000

    curl -N localhost:8000/v1/completions -H 'content-type: application/json' \\
        -d '{"model": "bytes-470k", "prompt": "Hello", "max_tokens": 20, "stream": true}'

The router listens on `--port`, the replicas on the ports behind it, then the registry by which the router finds them; a
replica that dies is started again. Each part can also be run by itself, wherever it shall be (`serve_llm.py replica
--help`, `router --help`, `registry --help`). Ctrl-C or SIGTERM ends everything in order.

`--no-bulkheads` shows what happens without walls between the parts: the first replica that dies takes the others with
it, nobody is waited for with a limit, and all tenants share one pool.
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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.bulkheads import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

MODEL = "bytes-470k"
RESTART_S = 1.0
ALL_AGAIN_S = 3.0
"""Without bulkheads: from the death of one part to the start of all."""
ENDING_S = 10.0


def main() -> int:
    """Run what the command line says."""
    chosen = _options().parse_args()
    parts = {"all": run_all, "replica": run_replica, "router": run_router, "registry": run_registry}
    return parts[chosen.part or "all"](chosen)


def run_all(chosen: argparse.Namespace) -> int:
    """Start router and replicas, start again what dies, until a signal comes."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    ports = [chosen.port + 1 + index for index in range(chosen.replicas + 1)]
    registry = f"http://{chosen.host}:{ports[-1]}"
    engine, walls = _passed_on(chosen, ENGINE), _passed_on(chosen, WALLS)
    walls += ["--no-bulkheads"] * chosen.no_bulkheads
    router = ["router", "--port", str(chosen.port), "--registry", registry, *walls]
    router += [f"replica-{index}=http://{chosen.host}:{port}" for index, port in enumerate(ports[:-1])]
    parts = [_Part("llm-router", "router", router, chosen)]
    for index, port in enumerate(ports[:-1]):
        words = ["replica", "--port", str(port), "--registry", registry, "--name", f"replica-{index}", *engine]
        parts.append(_Part("llm-server", f"replica-{index}", words, chosen))
    parts.append(_Part("llm-registry", "registry", ["registry", "--port", str(ports[-1])], chosen))
    for part in parts:
        part.start()
    ready = False
    while not over.wait(0.1):
        if chosen.no_bulkheads and any(part.is_dead() for part in parts):
            _all_again(parts, over)
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


def _all_again(parts: list[_Part], over: threading.Event) -> None:
    """What a parent does that takes the death of one child for its own: end them all, and start anew."""
    for part in parts:
        part.kill()
    if not over.wait(ALL_AGAIN_S):
        for part in parts:
            part.start()


def _passed_on(chosen: argparse.Namespace, options: Mapping[str, tuple[Any, str]]) -> list[str]:
    return [word for name in options for word in (f"--{name}", str(getattr(chosen, name.replace("-", "_"))))]


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


class _Part:
    """One process: the router or a replica. It ends when this one does, for it reads our end of a pipe."""

    def __init__(self, service: str, name: str, words: list[str], chosen: argparse.Namespace) -> None:
        self._command = [sys.executable, os.path.abspath(__file__), *words, "--host", chosen.host, "--with-parent"]
        given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        identity = f"service.instance.id={name}"
        if words[0] == "replica":
            identity += f",aiobs.replica={name}"
        self._environment = {
            **os.environ, "OTEL_SERVICE_NAME": service, "OTEL_RESOURCE_ATTRIBUTES": f"{given},{identity}".strip(","),
        }  # fmt: skip
        self._pidfile = Path(chosen.pids) / f"{name}.pid" if chosen.pids else None
        self._again = 0.0

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.PIPE)
        if self._pidfile is not None:
            fresh = self._pidfile.with_suffix(".new")
            fresh.write_text(f"{self._process.pid}\n", "utf-8")
            fresh.replace(self._pidfile)

    def is_dead(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def look_after(self) -> None:
        """Start it again a moment after it has died."""
        if not self.is_dead():
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
    "poison": ("", "a prompt that holds this text kills the replica, as a bug in the engine would"),
}
WALLS = {
    "per-replica": (Limits.per_replica, "requests that a replica has at once"),
    "per-tenant": (Limits.per_tenant, "requests of a tenant (header x-tenant) that are under way at once"),
    "waiting": (Limits.waiting, "requests of a tenant that wait for their turn; what comes then is refused"),
    "answer-s": (Limits.answer_s, "seconds that a replica may be silent"),
}


def run_replica(chosen: argparse.Namespace) -> int:
    """Serve the model."""
    import torch
    from llm.engine import Engine, Model
    from llm.fragile import Fragile
    from llm.model import Transformer
    from llm.paced import Paced
    from llm.registry import keep_announced
    from llm.server import create_app

    torch.set_num_threads(1)
    model: Model = Paced(Transformer(chosen.seed), chosen.pace / 1e3)
    if chosen.poison:
        model = Fragile(model, chosen.poison)
    if chosen.registry:
        url = f"http://{chosen.host}:{chosen.port}"
        keep_announced(chosen.registry, chosen.name, url, lambda: _listens(chosen.host, chosen.port))
    limits = {name: getattr(chosen, name) for name in ("blocks", "block_size", "max_batch", "step_tokens")}
    return _serve(create_app(MODEL, lambda dispatch: Engine(model, dispatch, **limits)), chosen)


def run_router(chosen: argparse.Namespace) -> int:
    """Route to replicas."""
    from llm.router import create_app

    limits = {name.replace("-", "_"): getattr(chosen, name.replace("-", "_")) for name in WALLS}
    return _serve(create_app(chosen.replica, Limits(**limits, walls=not chosen.no_bulkheads), chosen.registry), chosen)


def run_registry(chosen: argparse.Namespace) -> int:
    """Keep the list of who serves."""
    from llm.registry import create_app

    return _serve(create_app(), chosen)


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
    registry = parts.add_parser("registry", help="the registry alone")
    router.add_argument("replica", nargs="+", metavar="[NAME=]URL", help="address of a replica")
    parser.add_argument("--pids", default="", metavar="FOLDER", help="keep the pid of each part there, in NAME.pid")
    replica.add_argument("--name", default="replica-0", help="its name in the registry")
    for each in (replica, router):
        each.add_argument("--registry", default="", metavar="URL", help="who keeps the list of replicas")
    for each in (parser, replica, router, registry):
        each.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        each.add_argument("--port", type=int, default=8000, help="port to listen on (default 8000)")
    for each in (replica, router, registry):
        each.add_argument("--with-parent", action="store_true", help="end when standard input is closed")
    for each in (parser, replica):
        _add(each, ENGINE)
    for each in (parser, router):
        _add(each, WALLS)
        each.add_argument("--no-bulkheads", action="store_true", help="no walls between the parts: see above")
    return parser


def _add(parser: argparse.ArgumentParser, options: Mapping[str, tuple[Any, str]]) -> None:
    for name, (value, text) in options.items():
        shown = f"{text} (default {value})" if value != "" else text
        parser.add_argument(f"--{name}", type=type(value), default=value, help=shown)


if __name__ == "__main__":
    raise SystemExit(main())
