"""The walls of the language model server, and what happens where they are missing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from .test_serve_llm import ASK, environment, spans_of, wait_until_healthy, whole_server

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from llm.bulkheads import Limits, Suspects, Tenants
from llm.replicas import Replicas

POISON = {**ASK, "prompt": "all is well until BOOM"}


def test_a_greedy_tenant_waits_for_itself_and_is_refused_in_the_end() -> None:
    async def scene() -> None:
        tenants = Tenants(Limits(per_tenant=2, waiting=1))
        assert [await tenants.enter("red"), await tenants.enter("red")] == [True, True]
        waits = asyncio.create_task(tenants.enter("red"))
        await asyncio.sleep(0)
        assert not waits.done()
        assert not await tenants.enter("red")
        assert await tenants.enter("blue")
        tenants.leave("red")
        assert await waits
        given_up = asyncio.create_task(tenants.enter("red"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        for name in ("red", "red", "blue"):
            tenants.leave(name)
        assert [await tenants.enter("red"), await tenants.enter("red")] == [True, True]

    asyncio.run(scene())


def test_only_the_request_that_loses_a_second_replica_is_poison() -> None:
    suspects = Suspects()
    bad, unlucky = suspects.mark("red", b"BOOM"), suspects.mark("red", b"hello")
    assert bad != suspects.mark("blue", b"BOOM")
    suspects.lost(bad)
    suspects.lost(unlucky)
    assert not suspects.is_poison(bad)
    suspects.answered(unlucky)
    suspects.lost(unlucky)
    suspects.lost(bad)
    assert (suspects.is_poison(bad), suspects.is_poison(unlucky)) == (True, False)


def test_copies_of_a_suspect_are_tried_one_at_a_time() -> None:
    suspects = Suspects()
    mark = suspects.mark("red", b"BOOM")
    with suspects.trial(mark) as first, suspects.trial(mark) as second:
        assert (first, second) == (True, True), "nothing speaks against it yet"
    suspects.lost(mark)
    with suspects.trial(mark) as first, suspects.trial(mark) as second:
        assert (first, second) == (True, False)
    with suspects.trial(mark) as again:
        assert again


def test_a_failing_replica_is_left_alone_and_a_full_one_gets_no_more() -> None:
    async def scene() -> None:
        limits = Limits(per_replica=2, eject_after=2, eject_s=30)
        async with httpx.AsyncClient() as client:
            replicas = Replicas(client, limits, ["a=http://a", "b=http://b/"])
            first, second = replicas.all
            assert (first.name, second.url) == ("a", "http://b")
            first.failed(limits)
            assert first.is_well()
            first.failed(limits)
            assert [replicas.choose(()) for _ in range(2)] == [second, second]
            second.outstanding = 2
            assert replicas.choose(()) is first  # better one that was ill than nobody
            first.outstanding = 2
            assert replicas.choose(()) is None

    asyncio.run(scene())


def answers(client: httpx.Client, tenant: str, times: int = 8) -> list[int]:
    return [client.post("/v1/completions", json=ASK, headers={"x-tenant": tenant}).status_code for _ in range(times)]


def eventually(condition: Callable[[], object], limit_s: float = 60.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def pid(folder: Path, name: str) -> int:
    return int((folder / f"{name}.pid").read_text())


@pytest.mark.slow
def test_registry_gone_replica_hung_and_poison_are_survived(tmp_path: Path) -> None:
    env = environment() | {"AIOBS_RUN_DIR": str(tmp_path / "run"), "AIOBS_STARTED_AFTER": "600"}
    words = ["--pids", str(tmp_path), "--answer-s", "2", "--poison", "BOOM"]
    launcher = [sys.executable, "-m", "aiobs.cli", "run", "--quiet", "--"]
    with whole_server(tmp_path, env, *launcher, options=words) as url, httpx.Client(base_url=url, timeout=60) as client:
        os.kill(pid(tmp_path, "registry"), signal.SIGSTOP)
        assert answers(client, "blue") == [200] * 8
        os.kill(pid(tmp_path, "registry"), signal.SIGCONT)

        hung = pid(tmp_path, "replica-0")
        os.kill(hung, signal.SIGSTOP)
        assert answers(client, "blue") == [200] * 8
        assert eventually(lambda: not all(it["healthy"] for it in client.get("/health").json()["replicas"]))
        os.kill(hung, signal.SIGCONT)
        wait_until_healthy(client)

        before = [pid(tmp_path, name) for name in ("replica-0", "replica-1")]
        sent = [client.post("/v1/completions", json=POISON, headers={"x-tenant": "red"}).status_code for _ in range(4)]
        assert sent == [503, 422, 422, 422]
        assert eventually(lambda: before[0] != pid(tmp_path, "replica-0") and before[1] != pid(tmp_path, "replica-1"))
        wait_until_healthy(client)
        after = [pid(tmp_path, name) for name in ("replica-0", "replica-1")]
        assert answers(client, "blue") == [200] * 8
        assert after == [pid(tmp_path, name) for name in ("replica-0", "replica-1")]
    routed = [
        span["attributes"]
        for span in spans_of(tmp_path / "run")
        if span["kind"] == 2
        and span["resource"]["service.name"] == "llm-router"
        and span["attributes"].get("http.route") == "/v1/{path}"
    ]
    assert {it["aiobs.tenant"] for it in routed} == {"blue", "red"}
    assert {it["aiobs.replica"] for it in routed if it["http.response.status_code"] == "200"} == {
        "replica-0",
        "replica-1",
    }


@pytest.mark.slow
def test_without_bulkheads_one_death_takes_all_down_for_a_while(tmp_path: Path) -> None:
    words = ["--pids", str(tmp_path), "--no-bulkheads"]
    with whole_server(tmp_path, environment(), options=words) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert answers(client, "blue") == [200] * 8
        others = [pid(tmp_path, name) for name in ("router", "replica-1")]
        os.kill(pid(tmp_path, "replica-0"), signal.SIGKILL)

        def is_down() -> bool:
            try:
                answers(client, "blue", 1)
            except httpx.TransportError:
                return True
            return False

        assert eventually(is_down)
        assert eventually(lambda: not is_down())
        assert answers(client, "blue") == [200] * 8
        assert others != [pid(tmp_path, name) for name in ("router", "replica-1")]
