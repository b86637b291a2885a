"""The Ray Serve patch: against a stand-in of the interface it touches (tests/engines/standins/ray_serve.py) always,
and against a real Ray, with actors in processes of their own, where that is installed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from aiobs import patches, span
from aiobs.serving import current_request
from aiobs.testing import capture

from .standins import ray_serve as standin

ROOT = Path(__file__).parents[2]


@pytest.fixture
def impl(monkeypatch: pytest.MonkeyPatch) -> Any:
    return standin.install(monkeypatch)


class Target:
    """What a user deploys."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.queue: standin.BatchQueue | None = None

    async def __call__(self, number: int) -> int:
        self.requests.append(current_request())
        with span("model"):
            return number * 2

    async def refuse(self) -> None:
        raise ValueError("no")

    async def tokens(self, count: int) -> Any:
        for number in range(count):
            yield number

    async def batched(self, number: int) -> Any:
        assert self.queue is not None
        return await self.queue.ask(self.many, number)

    async def many(self, numbers: list[int]) -> list[int]:
        self.requests.append(current_request())
        with span("model"):
            return [number + 1 for number in numbers]


def test_a_replicas_request_is_a_child_of_the_call(impl: Any) -> None:
    target = Target()

    async def call() -> int:
        with span("gateway"):
            return int(await standin.Handle(standin.Replica("Doubler", target), impl).remote(4))

    with capture() as captured:
        assert asyncio.run(call()) == 8
    answered = captured.span("Doubler/__call__")
    assert (answered.kind, answered.parent_id) == (2, captured.span("gateway").span_id)
    assert answered.attributes["rpc.system"] == "ray_serve"
    assert answered.attributes["rpc.service"] == "Doubler"
    assert answered.attributes["aiobs.ray.replica"] == "abcd"
    assert captured.span("model").parent_id == answered.span_id
    assert target.requests[0] is not None  # an engine in the replica finds the request it works for


def test_a_call_from_nowhere_begins_a_trace(impl: Any) -> None:
    with capture() as captured:
        asyncio.run(standin.Handle(standin.Replica("Doubler", Target()), impl).remote(4))
    assert captured.span("Doubler/__call__").parent_id == ""


def test_an_error_of_the_deployment_reaches_the_caller(impl: Any) -> None:
    handle = standin.Handle(standin.Replica("Doubler", Target()), impl)
    with capture() as captured, pytest.raises(ValueError, match="no"):
        asyncio.run(handle.remote(method="refuse"))
    answered = captured.span("Doubler/refuse")
    assert (answered.status, answered.attributes["error.type"]) == (2, "ValueError")


def test_a_stream_is_one_request_and_letting_go_of_it_no_error(impl: Any) -> None:
    handle = standin.Handle(standin.Replica("Doubler", Target()), impl)

    async def call() -> list[int]:
        with span("gateway"):
            whole = [number async for number in handle.stream(3, method="tokens")]
            left = handle.stream(3, method="tokens")
            await left.__anext__()
            await left.aclose()
            return whole

    with capture() as captured:
        assert asyncio.run(call()) == [0, 1, 2]
    whole, left = captured.named("Doubler/tokens")
    assert {whole.parent_id, left.parent_id} == {captured.span("gateway").span_id}
    assert "aiobs.request.disconnected" not in whole.attributes
    assert (left.status, left.attributes["aiobs.request.disconnected"]) == (0, True)


def test_a_batch_links_the_requests_it_answers(impl: Any) -> None:
    target = Target()

    async def call(number: int) -> int:
        with span(f"caller {number}"):
            return int(await standin.Handle(standin.Replica("Adder", target), impl).remote(number, method="batched"))

    async def calls() -> list[int]:
        target.queue = standin.BatchQueue(3)
        found = await asyncio.gather(*(call(number) for number in range(3)))
        found += await asyncio.gather(*(call(number) for number in range(3, 6)))
        assert target.queue.task is not None
        target.queue.task.cancel()
        return found

    with capture() as captured:
        assert asyncio.run(calls()) == [1, 2, 3, 4, 5, 6]
    requests = captured.named("Adder/batched")
    first, second = captured.named("batch many")
    for batch, answered in ((first, requests[:3]), (second, requests[3:])):
        assert batch.attributes["aiobs.request.inputs"] == 3
        assert batch.parent_id == answered[0].span_id
        assert {link.span_id.hex() for link in batch.links} == {it.span_id for it in answered[1:]}
        assert [child.name for child in captured.children(batch)] == ["model"]
    assert target.requests == [None, None]  # a batch answers for no single request


def test_a_replica_without_aiobs_takes_the_metadata_as_it_is(impl: Any) -> None:
    handle = standin.Handle(standin.Replica("Doubler", Target()), impl)
    with capture(), span("gateway"):
        pickled = handle._pickled("__call__")
    patches.remove_all()
    assert asyncio.run(standin.Replica("Doubler", Target()).handle_request(pickled, 2)) == 4


def test_everything_is_put_back(impl: Any) -> None:
    before = impl.get_request_metadata, standin.Replica._wrap_request, standin.BatchQueue.put
    with capture():
        assert "ray_serve" in patches.active()
        assert standin.Replica._wrap_request is not before[1]
    assert (impl.get_request_metadata, standin.Replica._wrap_request, standin.BatchQueue.put) == before


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray (1.6 GB with ray[serve]) is not installed")
def test_a_real_ray_is_one_trace_from_driver_to_batch(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "AIOBS_RAISE": ""}
    program = str(Path(__file__).with_name("ray_application.py"))
    command = [sys.executable, "-m", "aiobs.cli", "run", "--", sys.executable, program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for path in tmp_path.glob("aiobs-runs/*/traces*.jsonl") for line in path.read_text().splitlines()]
    scopes = [scope for line in lines for it in json.loads(line)["resourceSpans"] for scope in it["scopeSpans"]]
    found = [it for scope in scopes for it in scope["spans"]]
    by_id = {it["spanId"]: it for it in found}

    def above(name: str) -> list[list[str]]:
        """For each span of that name, the names of the spans over it."""
        lines = []
        for it in (it for it in found if it["name"] == name):
            line: list[str] = []
            while (it := by_id.get(it.get("parentSpanId", ""), {})) and it["name"] != "process":
                line.append(it["name"])
            lines.append(line)
        return lines

    assert ["Gateway/ask", "driver ask"] in above("Tokens/stream")
    assert ["Gateway/__call__", "GET"] in [line[:2] for line in above("Tokens/stream")]
    assert above("Tokens/refuse") == [["driver refuse"]]
    assert above("Batched/__call__") == [["caller 0"], ["caller 1"], ["caller 2"]]
    assert above("model") == [["batch many", "Batched/__call__", "caller 0"]]
    (batch,) = [it for it in found if it["name"] == "batch many"]
    assert len(batch["links"]) == 2
