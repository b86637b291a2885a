"""The scene of the experiments in this folder: a service with three replicas under load, and a training job.

    python examples/chaos/scene.py RUN [--no-bulkheads]

Runs until Ctrl-C. What the experiments need to know stands in RUN/scene.env once all of it works: ``. RUN/scene.env``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from aiobs.chaos.demo.scene import Scene

RATE = 36.0
"""Requests a second: enough for a verdict after a few seconds, little enough for two slow processors."""


@contextmanager
def running(folder: Path, *, bulkheads: bool = True, rate: float = RATE) -> Iterator[tuple[Scene, dict[str, str]]]:
    """The scene while the block runs; yields it, and the variables that experiments need."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{endpoint}"
    # Two ranks: the machine of the third replica carries nothing else, so that it can be slow or cut off alone.
    with Scene(folder, ranks=2, rate=rate, bulkheads=bulkheads, nodes=False) as scene, _sink(endpoint, scene):
        port = urlsplit(scene.url).port or 0
        yield scene, {
            **scene.environment, "RUN": str(scene.run_folder), "PIDS": str(scene.pidfile("router").parent),
            "ROUTER": f"127.0.0.1:{port}", "REGISTRY": f"127.0.0.1:{port + 8}",
            "REPLICA_PORT": str(port + 3), "ENDPOINT": endpoint,
        }  # fmt: skip


@contextmanager
def _sink(endpoint: str, scene: Scene) -> Iterator[None]:
    """The endpoint; what was sent before it was there has waited in the agent's spool."""
    command = [sys.executable, str(Path(__file__).with_name("sink.py")), endpoint.rpartition(":")[2]]
    process = subprocess.Popen(command, env={**os.environ, **scene.environment})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> int:
    """Be the scene until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder, a new one")
    parser.add_argument("--no-bulkheads", action="store_true", help="without walls between the parts")
    parser.add_argument("--rate", type=float, default=RATE, help=f"requests a second (default {RATE:g})")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with running(chosen.folder, bulkheads=not chosen.no_bulkheads, rate=chosen.rate) as (_, environment):
            path = chosen.folder / "scene.env"
            path.write_text("".join(f"export {name}={shlex.quote(it)}\n" for name, it in environment.items()), "utf-8")
            print(f"ready: . {path}", flush=True)
            while True:
                time.sleep(1)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
