"""``aiobs jaeger``, with a stand-in for the ``jaeger`` program: no real one can be had from a package index."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aiobs import names
from aiobs.cli.jaeger import server_config, ui_config

from .conftest import AIOBS, Run, environment

Launch = Callable[..., "subprocess.Popen[bytes]"]
ROOT = Path(__file__).parents[2]

FAKE_JAEGER = f"""#!{sys.executable}
# A stand-in for Jaeger: reads the configuration that it is given and answers on the port that it names.
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
assert sys.argv[1] == "--config"
config = json.load(open(sys.argv[2]))
ui = json.load(open(config["extensions"]["jaeger_query"]["ui"]["config_file"]))
assert ui["linkPatterns"]
host, port = config["extensions"]["jaeger_query"]["http"]["endpoint"].split(":")
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{{}}")
    def log_message(self, *_): pass
HTTPServer((host, int(port)), Answer).serve_forever()
"""


def test_without_any_jaeger_it_says_how_to_get_one(aiobs: Run, tmp_path: Path) -> None:
    done = subprocess.run(
        [*AIOBS, "jaeger"], env=environment(PATH=str(tmp_path)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stdout == ""
    for hint in (
        "no `docker` on PATH",
        "jaegertracing.io/download",
        "jaegertracing/jaeger:",
        "aiobs summary",
        "aiobs export",
    ):
        assert hint in done.stderr


def test_a_docker_without_engine_is_named(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    docker.chmod(0o755)
    done = subprocess.run(
        [*AIOBS, "jaeger"], env=environment(PATH=f"{tmp_path}:/bin"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "Cannot connect to the Docker daemon" in done.stderr


def test_docker_gets_the_image_the_ports_and_the_configuration(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\n[ "$1" = info ] && exit 0\necho "$@" > {tmp_path}/said\nfor f in "$@"; do case "$f" in *:/aiobs:ro) cp "${{f%:/aiobs:ro}}"/* {tmp_path};; esac; done\n'
    )
    docker.chmod(0o755)
    subprocess.run(
        [*AIOBS, "jaeger", "--docker"],
        env=environment(PATH=f"{tmp_path}:/bin:/usr/bin"),
        capture_output=True,
        check=False,
        timeout=30,
    )
    said = (tmp_path / "said").read_text()
    assert said.startswith("run --rm -p 127.0.0.1:16686:16686 ")
    assert " jaegertracing/jaeger:2" in said
    assert (
        json.loads((tmp_path / "jaeger.yaml").read_text())["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
        == "0.0.0.0:4318"
    )
    assert json.loads((tmp_path / "ui.json").read_text()) == ui_config()


def test_a_jaeger_on_the_path_is_started_and_stopped(tmp_path: Path) -> None:
    jaeger = tmp_path / "jaeger"
    jaeger.write_text(FAKE_JAEGER)
    jaeger.chmod(0o755)
    process = subprocess.Popen(
        [*AIOBS, "jaeger"],
        env=environment(PATH=f"{tmp_path}:/usr/bin:/bin"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        if not first:
            pytest.skip(f"the ports of Jaeger are taken here: {process.stderr.read().decode()}")  # type: ignore[union-attr]
        assert first == b"aiobs: Jaeger is at http://localhost:16686\n"
        second = subprocess.run(
            [*AIOBS, "jaeger"], env=environment(PATH=f"{tmp_path}:/usr/bin:/bin"), capture_output=True, check=False
        )
        assert (second.returncode, b"answers on http://localhost:16686 already" in second.stdout) == (0, True)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_a_jaeger_that_fails_at_once_is_not_waited_for(tmp_path: Path) -> None:
    jaeger = tmp_path / "jaeger"
    jaeger.write_text("#!/bin/sh\necho 'bad config' >&2\nexit 9\n")
    jaeger.chmod(0o755)
    begun = time.monotonic()
    done = subprocess.run(
        [*AIOBS, "jaeger"],
        env=environment(PATH=f"{tmp_path}:/usr/bin:/bin"),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 9
    assert b"bad config" in done.stderr
    assert time.monotonic() - begun < 20


def test_runs_and_steps_are_joined_by_links() -> None:
    config = ui_config()
    patterns = {pattern["key"]: pattern for pattern in config["linkPatterns"]}  # type: ignore[attr-defined]
    assert patterns[names.RUN_TRACE_ID]["url"] == f"/trace/#{{{names.RUN_TRACE_ID}}}"
    assert names.STEP in patterns


def test_the_example_files_are_what_the_command_prints(aiobs: Run) -> None:
    folder = ROOT / "examples" / "jaeger"
    assert (
        json.loads(aiobs("jaeger", "--print-config", "ui").stdout)
        == json.loads((folder / "ui.json").read_text())
        == ui_config()
    )
    assert json.loads(aiobs("jaeger", "--print-config").stdout) == server_config("ui.json", "localhost")
    assert json.loads((folder / "jaeger.yaml").read_text()) == server_config("/aiobs/ui.json", "0.0.0.0")
    compose = (folder / "compose.yaml").read_text()
    for port in ("16686", "4317", "4318"):
        assert f"127.0.0.1:{port}:{port}" in compose
