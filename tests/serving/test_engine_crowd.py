"""A thousand callers at once on the whole reference server: every span is where it belongs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from aiobs import names, propagation
from aiobs.recorder import start_span
from aiobs.telemetry import CLIENT, SERVER
from aiobs.testing import Captured, capture

from .llm_example import EXAMPLES
from .processes import free_port

CALLERS = 1000
TOKENS = 6
REPLICAS = 2


@dataclass(frozen=True)
class Seen:
    """A span, of the callers or the server."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    service: str
    attributes: dict[str, Any]


@contextmanager
def whole_server(folder: Path) -> Iterator[int]:
    """Router and replicas under ``aiobs run``, its run folder in `folder`; yields the port."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(EXAMPLES.parent),
        "AIOBS_RUN_DIR": str(folder),
        "AIOBS_STARTED_AFTER": "600",
    }
    command = [sys.executable, "-m", "aiobs.cli", "run", "--", sys.executable, str(EXAMPLES / "serve_llm.py"),
               "--replicas", str(REPLICAS), "--port", str(port), "--max-batch", "64", "--blocks", "1024"]  # fmt: skip
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline().startswith("ready")
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            _, said = server.communicate(timeout=60)
    assert server.returncode == 0, said


async def ask_all(port: int) -> Counter[int]:
    """All at once, each in a trace of its own whose root knows its number; how many lines of data each got."""
    got: Counter[int] = Counter()
    limits = httpx.Limits(max_connections=None)

    async def ask(number: int) -> None:
        with start_span("caller", {"number": number}, kind=CLIENT, root=True, current=True) as span:
            headers = {"x-tenant": f"caller-{number}"}
            propagation.inject(span.context, headers)
            body = {
                "model": "bytes-470k",
                "prompt": f"I am {number}.",
                "max_tokens": TOKENS,
                "stream": True,
                "ignore_eos": True,
            }
            async with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
                async for line in answer.aiter_lines():
                    got[number] += line.startswith("data: {")
                    assert "error" not in line

    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=100, limits=limits, trust_env=False
    ) as client:
        await asyncio.gather(*map(ask, range(CALLERS)))
    return got


def plain(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [plain(item) for item in content["values"]]
    return int(content) if kind == "intValue" else content


def served(folder: Path) -> Iterator[Seen]:
    """The spans of a run folder."""
    for path in folder.glob("traces*.jsonl"):
        for line in path.read_text().splitlines():
            for group in json.loads(line)["resourceSpans"]:
                resource = {pair["key"]: plain(pair["value"]) for pair in group["resource"]["attributes"]}
                for span in (span for scope in group["scopeSpans"] for span in scope["spans"]):
                    attributes = {pair["key"]: plain(pair["value"]) for pair in span.get("attributes", [])}
                    yield Seen(span["name"], span["kind"], span["traceId"], span["spanId"], span.get("parentSpanId", ""),
                               resource["service.name"], attributes)  # fmt: skip


def ours(captured: Captured) -> Iterator[Seen]:
    for span in captured.spans:
        yield Seen(span.name, span.kind, span.trace_id, span.span_id, span.parent_id, "caller", span.attributes)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_streams_without_an_orphan_or_a_stranger(tmp_path: Path) -> None:
    with whole_server(tmp_path / "run") as port, capture(join_limit=0, started_after_s=600) as captured:
        began = time.monotonic()
        got = asyncio.run(ask_all(port))
        print(f"{CALLERS} streams in {time.monotonic() - began:.1f} s")
    assert got == dict.fromkeys(range(CALLERS), TOKENS)

    spans = [*ours(captured), *served(tmp_path / "run")]
    by_id = {span.id: span for span in spans}
    assert len(by_id) == len(spans)
    orphans = [span for span in spans if span.parent and span.parent not in by_id]
    strangers = [span for span in spans if span.parent in by_id and by_id[span.parent].trace != span.trace]
    assert (orphans, strangers) == ([], [])

    by_trace: dict[str, list[Seen]] = defaultdict(list)
    for span in spans:
        by_trace[span.trace].append(span)
    callers = [span for span in spans if span.name == "caller"]
    assert len({span.trace for span in callers}) == CALLERS
    replicas = Counter[str]()
    for caller in callers:
        trace = by_trace[caller.trace]
        number = caller.attributes["number"]
        (router,) = [span for span in trace if span.kind == SERVER and span.service == "llm-router"]
        (server,) = [span for span in trace if span.kind == SERVER and span.service == "llm-server"]
        assert server.attributes[names.TENANT] == f"caller-{number}"
        assert server.attributes[names.GEN_AI_OUTPUT_TOKENS] == TOKENS
        assert chain(server, by_id)[-1] is caller
        assert router in chain(server, by_id)
        phases = [span for span in trace if span.parent == server.id]
        assert Counter(span.name for span in phases if span.name != "background") == {
            "queue": 1,
            "prefill": 1,
            "decode": 1,
        }
        replicas[server.attributes.get("server.port", "")] += 1
    print(f"requests by replica: {dict(replicas)}, spans: {len(spans)}")


def chain(span: Seen, by_id: dict[str, Seen]) -> list[Seen]:
    """The spans above a span, up to the root."""
    found = [span]
    while found[-1].parent:
        found.append(by_id[found[-1].parent])
    return found[1:]
