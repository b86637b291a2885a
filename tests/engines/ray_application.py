"""A Ray Serve application of three deployments, and a driver that calls it in every way; run under ``aiobs run``."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

import ray
from ray import serve

import aiobs


@serve.deployment
class Tokens:
    async def stream(self, count: int) -> Any:
        for number in range(count):
            await asyncio.sleep(0.005)
            yield number

    def __call__(self, number: int) -> int:
        return number * 2

    def refuse(self) -> None:
        raise ValueError("no")


@serve.deployment
class Batched:
    @serve.batch(max_batch_size=3, batch_wait_timeout_s=5)
    async def many(self, numbers: list[int]) -> list[int]:
        with aiobs.span("model"):
            await asyncio.sleep(0.01)
        return [number + 1 for number in numbers]

    async def __call__(self, number: int) -> Any:
        return await self.many(number)


@serve.deployment
class Gateway:
    def __init__(self, tokens: Any) -> None:
        self.tokens = tokens

    async def ask(self, count: int) -> Any:
        stream = self.tokens.options(stream=True, method_name="stream").remote(count)
        return [number async for number in stream], await self.tokens.remote(3)

    async def __call__(self, request: Any) -> Any:
        return {"sum": sum((await self.ask(4))[0])}


def main() -> None:
    ray.init(
        include_dashboard=False, _node_ip_address="127.0.0.1", num_cpus=4, object_store_memory=80 << 20,
        logging_level="error", log_to_driver=False,
    )  # fmt: skip
    gateway = serve.run(Gateway.bind(Tokens.bind()), route_prefix="/")
    batched = serve.run(Batched.bind(), name="batches", route_prefix="/batches")
    with aiobs.span("driver ask"):
        assert gateway.ask.remote(3).result(timeout_s=60) == ([0, 1, 2], 6)
    calls = []
    for number in range(3):
        with aiobs.span(f"caller {number}"):
            calls.append(batched.remote(number))
    assert [call.result(timeout_s=60) for call in calls] == [1, 2, 3]
    with aiobs.span("driver refuse"):
        try:
            serve.get_deployment_handle("Tokens", "default").refuse.remote().result(timeout_s=60)
        except ValueError:
            pass
    with aiobs.span("driver http"):
        urllib.request.urlopen("http://127.0.0.1:8000/").read()
    serve.shutdown()
    ray.shutdown()


main()
