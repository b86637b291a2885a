"""``aiobs jaeger``: a local Jaeger whose user interface knows how runs and steps belong together."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from aiobs import names
from aiobs.cli.launch import CannotStartError, Child, end_like
from aiobs.errors import SettingError

NO_JAEGER = 3
"""Exit code where neither a Jaeger nor a Docker engine is to be had."""
IMAGE = "jaegertracing/jaeger:2.20.0"
UI_PORT, GRPC_PORT, HTTP_PORT = 16686, 4317, 4318
START_S = 30.0

HOW = f"""\
aiobs: there is no Jaeger here: no `jaeger` on PATH, and no Docker engine answers ({{docker}}).
Get one of these, then run this command again:
  * the program: https://www.jaegertracing.io/download/ (version 2), unpack `jaeger` into a folder on PATH
  * Docker:      https://docs.docker.com/engine/install/, image {IMAGE}
Anything else that takes OTLP serves as well:  aiobs send --endpoint URL
Without any of them:  aiobs summary,  and  aiobs export RUN run.perfetto.json  for https://ui.perfetto.dev
"""


def ui_config() -> dict[str, object]:
    """Jaeger's UI configuration: links between a run's trace and those of its steps, and useful defaults."""
    run, step = names.RUN_TRACE_ID, names.STEP
    return {
        "dependencies": {"menuEnabled": False},
        "linkPatterns": [
            {"type": "process", "key": run, "url": f"/trace/#{{{run}}}", "text": f"The run's trace: #{{{run}}}"},
            {
                "type": "process", "key": names.RUN_ID, "text": f"All traces of run #{{{names.RUN_ID}}}",
                "url": f"/search?service=#{{{names.SERVICE_NAME}}}&lookback=2d&limit=200&tags=%7B%22{names.RUN_ID}%22%3A%22#{{{names.RUN_ID}}}%22%7D",
            },
            {
                "type": "tags", "key": step, "text": f"Step #{{{step}}} in every run",
                "url": f"/search?service=trainer&lookback=2d&limit=200&tags=%7B%22{step}%22%3A%22#{{{step}}}%22%7D",
            },
        ],
        "search": {"maxLookback": {"label": "2 days", "value": "2d"}, "maxLimit": 1500},
        "tracking": {"gaID": None, "trackErrors": False},
    }  # fmt: skip


def server_config(ui_file: str, host: str) -> dict[str, object]:
    """Jaeger's configuration: everything in memory, OTLP in, the user interface out."""
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {"traces": {"receivers": ["otlp"], "processors": ["batch"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"logs": {"level": "warn"}, "metrics": {"level": "none"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 100000}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "ui": {"config_file": ui_file},
                "http": {"endpoint": f"{host}:{UI_PORT}"},
                "grpc": {"endpoint": f"{host}:16685"},
            },
        },
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"{host}:{GRPC_PORT}"}, "http": {"endpoint": f"{host}:{HTTP_PORT}"}}}},
        "processors": {"batch": {}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog="aiobs jaeger", description="Start a local Jaeger (a `jaeger` on PATH, else by Docker) and stay until Ctrl-C.",
        epilog="JSON is YAML: both configurations can be given to any Jaeger 2 with --config.",
    )  # fmt: skip
    made.add_argument(
        "--print-config", choices=("server", "ui"), nargs="?", const="server", help="print a configuration and end"
    )
    made.add_argument("--docker", action="store_true", help="use Docker even if there is a `jaeger` on PATH")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb: Jaeger's exit code, or 3 where there is none to start."""
    options = parser().parse_args(argv)
    if options.print_config:
        print(
            json.dumps(ui_config() if options.print_config == "ui" else server_config("ui.json", "localhost"), indent=2)
        )
        return 0
    program = None if options.docker else shutil.which("jaeger")
    docker, reason = ("", "") if program else _docker()
    if not program and not docker:
        print(HOW.format(docker=reason), end="", file=sys.stderr)
        return NO_JAEGER
    if jaeger_answers():
        print(f"aiobs: something answers on http://localhost:{UI_PORT} already; use that one")
        return 0
    _refuse_taken_ports()
    folder = Path(tempfile.mkdtemp(prefix="aiobs-jaeger-"))
    try:
        command = _native(program, folder) if program else _in_docker(docker, folder)
        try:
            child = Child(command, dict(os.environ))
        except CannotStartError as error:
            raise SettingError("jaeger", command[0], f"cannot be started: {error}") from error
        _announce(child.pid)
        return end_like(child.wait())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _native(program: str, folder: Path) -> list[str]:
    (folder / "ui.json").write_text(json.dumps(ui_config(), indent=2))
    config = folder / "jaeger.yaml"
    config.write_text(json.dumps(server_config(str(folder / "ui.json"), "localhost"), indent=2))
    return [program, "--config", str(config)]


def _in_docker(docker: str, folder: Path) -> list[str]:
    (folder / "ui.json").write_text(json.dumps(ui_config(), indent=2))
    # Inside the container localhost is the container's own.
    (folder / "jaeger.yaml").write_text(json.dumps(server_config("/aiobs/ui.json", "0.0.0.0"), indent=2))  # noqa: S104
    folder.chmod(0o755)
    ports = [word for port in (UI_PORT, GRPC_PORT, HTTP_PORT) for word in ("-p", f"127.0.0.1:{port}:{port}")]
    return [docker, "run", "--rm", *ports, "-v", f"{folder}:/aiobs:ro", IMAGE, "--config", "/aiobs/jaeger.yaml"]


def _docker() -> tuple[str, str]:
    """The ``docker`` program if its engine answers, else "" and why not."""
    docker = shutil.which("docker")
    if docker is None:
        return "", "no `docker` on PATH"
    try:
        answer = subprocess.run(
            [docker, "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if answer.returncode:
        said = (answer.stderr.strip() or "docker info failed").splitlines()
        return "", said[-1]
    return docker, ""


def jaeger_answers(ui: str = f"http://localhost:{UI_PORT}") -> bool:
    """Whether a Jaeger's user interface is reachable at `ui`."""
    try:
        with urlopen(f"{ui}/api/services", timeout=1) as answer:  # noqa: S310 - a local address
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False


def _refuse_taken_ports() -> None:
    for port in (UI_PORT, GRPC_PORT, HTTP_PORT):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise SettingError("port", port, f"Jaeger needs it, and it is taken ({error.strerror})") from error


def _announce(pid: int) -> None:
    """Wait until Jaeger answers, then say where; gives up quietly when it ends or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if jaeger_answers():
            print(
                f"aiobs: Jaeger is at http://localhost:{UI_PORT}\n"
                f"  record into it:   aiobs run --endpoint http://localhost:{HTTP_PORT} -- python train.py\n"
                f"  replay a run:     aiobs send --endpoint http://localhost:{HTTP_PORT}",
                flush=True,
            )
            return
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.1)
    print(
        f"aiobs: Jaeger does not answer on http://localhost:{UI_PORT} after {START_S:g} s; still waiting for it to end",
        flush=True,
    )
