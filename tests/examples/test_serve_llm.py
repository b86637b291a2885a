"""The language model server as a whole: with and without aiobs, with a replica that is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
SERVER, LOAD = ROOT / "examples" / "serve_llm.py", ROOT / "examples" / "llm" / "load.py"
ASK = {"model": "bytes-470k", "prompt": "Hello", "max_tokens": 8, "ignore_eos": True}


def environment(path: Path = ROOT) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(path)}


@contextmanager
def whole_server(
    folder: Path, env: dict[str, str], *words: str, stop: int = signal.SIGTERM, options: Sequence[str] = ()
) -> Iterator[str]:
    """Runs until the block ends, started by `words`; yields its address. It must end in order."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [*words, sys.executable, str(SERVER), "--replicas", "2", "--port", str(port), "--pace", "5", *options]
    with subprocess.Popen(
        command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == f"ready: http://127.0.0.1:{port}, 2 replicas\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            server.send_signal(stop)
            _, said = server.communicate(timeout=60)
            print(said)  # shown where the test fails
    assert (server.returncode, "Traceback" in said) == (0, False), said


@pytest.mark.slow
def test_it_runs_where_there_is_no_aiobs(tmp_path: Path) -> None:
    (tmp_path / "aiobs").mkdir()
    (tmp_path / "aiobs" / "__init__.py").write_text("raise ModuleNotFoundError('aiobs')")
    env = environment(tmp_path)
    with whole_server(tmp_path, env, stop=signal.SIGINT) as url:
        words = ["--url", url, "--requests", "20", "--rate", "100", "--tokens", "4", "8", "--json"]
        load = subprocess.run([sys.executable, LOAD, *words], env=env, capture_output=True, text=True, timeout=60)
        found = json.loads(load.stdout)
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "bytes-470k"
    assert (found["whole"], found["errors"]) == (20, {})
    assert 0 < found["itl"]["p50"] <= found["itl"]["max"]


def replica_pids(url: str) -> dict[str, int]:
    """Pid of each replica by its port, from the command lines on this machine."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(SERVER) in words and "replica" in words:
            found[words[words.index("--port") + 1]] = int(entry.name)
    ports = [each["url"].rpartition(":")[2] for each in httpx.get(f"{url}/health").json()["replicas"]]
    return {port: found[port] for port in ports if port in found}


@pytest.mark.slow
def test_a_killed_replica_costs_its_own_requests_only(tmp_path: Path) -> None:
    env = environment() | {"AIOBS_RUN_DIR": str(tmp_path / "run"), "AIOBS_STARTED_AFTER": "600"}
    with whole_server(tmp_path, env, sys.executable, "-m", "aiobs.cli", "run", "--quiet", "--") as url:
        with httpx.Client(base_url=url, timeout=30) as client:
            with client.stream("POST", "/v1/completions", json={**ASK, "max_tokens": 4000, "stream": True}) as answer:
                lines = answer.iter_lines()
                first = next(lines)
                busy = [each for each in client.get("/health").json()["replicas"] if each["outstanding"]]
                assert busy, first
                port = busy[0]["url"].rpartition(":")[2]
                os.kill(replica_pids(url)[port], signal.SIGKILL)
                last = [line for line in lines if line][-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == 502
            for _ in range(4):  # whether the router has noticed or not
                answer = client.post("/v1/completions", json=ASK)
                assert answer.status_code == 200, answer.text
            wait_until_healthy(client)
    spans = list(spans_of(tmp_path / "run"))
    (cut,) = [span for span in spans if span["attributes"].get("aiobs.truncated") and span["kind"] == 2]
    assert cut["attributes"]["aiobs.exit.signal"] == "SIGKILL"
    assert cut["resource"]["aiobs.replica"].startswith("replica-")
    assert cut["resource"]["service.instance.id"] == cut["resource"]["aiobs.replica"]
    phases = {span["name"]: span for span in spans if span.get("parentSpanId") == cut["spanId"]}
    assert phases["decode"]["attributes"]["aiobs.truncated"] is True
    assert "aiobs.truncated" not in phases["prefill"]["attributes"]
    failed = [span for span in spans if span["kind"] == 2 and span.get("status", {}).get("code") == 2]
    (other,) = [span for span in failed if span is not cut and "health" not in span["name"]]
    assert other["resource"]["service.name"] == "llm-router"
    assert other["traceId"] == cut["traceId"]


def wait_until_healthy(client: httpx.Client) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if all(each["healthy"] for each in client.get("/health").json()["replicas"]):
            return
        time.sleep(0.1)
    raise AssertionError("the replica did not come back")


def spans_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The spans of a run folder, with plain attributes and resource."""

    def plain(pairs: list[dict[str, Any]]) -> dict[str, Any]:
        return {pair["key"]: next(iter(pair["value"].values())) for pair in pairs}

    for path in folder.glob("traces*.jsonl"):
        for line in path.read_text().splitlines():
            for group in json.loads(line)["resourceSpans"]:
                resource = plain(group["resource"]["attributes"])
                for span in (span for scope in group["scopeSpans"] for span in scope["spans"]):
                    yield {**span, "attributes": plain(span.get("attributes", [])), "resource": resource}
