"""A stand-in of what the Ray Serve patch touches in Ray (2.60): request metadata made for a handle's call and pickled
to the replica, the replica's context manager around each request, and the queue behind ``@serve.batch``.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class RequestMetadata:
    request_id: str
    call_method: str = "__call__"
    route: str = ""
    multiplexed_model_id: str = ""
    tracing_context: Any = None


@dataclass
class SingleRequest:
    argument: Any
    future: asyncio.Future[Any]


class Replica:
    """Runs a user's callable for pickled requests, in a context of its own as an actor does."""

    def __init__(self, deployment: str, target: Any) -> None:
        deployment_id = SimpleNamespace(name=deployment, app_name="default")
        self._replica_id = SimpleNamespace(deployment_id=deployment_id, unique_id="abcd")
        self._target = target

    @contextmanager
    def _wrap_request(self, request_metadata: RequestMetadata, ray_trace_ctx: Any = None) -> Iterator[Any]:
        try:
            yield lambda _status: None
        except Exception as error:
            raise error from None

    async def handle_request(self, pickled: bytes, *args: Any) -> Any:
        metadata = pickle.loads(pickled)
        with self._wrap_request(metadata):
            return await getattr(self._target, metadata.call_method)(*args)

    async def handle_request_streaming(self, pickled: bytes, *args: Any) -> Any:
        metadata = pickle.loads(pickled)
        with self._wrap_request(metadata):
            async for item in getattr(self._target, metadata.call_method)(*args):
                yield item


class BatchQueue:
    """Its task is begun by the first request and inherits that one's context."""

    def __init__(self, size: int) -> None:
        self.queue: asyncio.Queue[SingleRequest] = asyncio.Queue()
        self.size = size
        self.task: asyncio.Task[None] | None = None

    def put(self, request: SingleRequest) -> None:
        self.queue.put_nowait(request)

    async def _process_batches(self, func: Any) -> None:
        while True:
            await self._process_batch_inner(func, [await self.queue.get() for _ in range(self.size)])

    async def _process_batch_inner(self, func: Any, batch: list[SingleRequest]) -> None:
        results = await func([request.argument for request in batch])
        for request, result in zip(batch, results):
            request.future.set_result(result)

    async def ask(self, func: Any, argument: Any) -> Any:
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._process_batches(func))
        request = SingleRequest(argument, asyncio.get_running_loop().create_future())
        self.put(request)
        return await request.future


class Handle:
    """A handle to a deployment with one replica."""

    def __init__(self, replica: Replica, default_impl: Any) -> None:
        self._replica, self._impl = replica, default_impl

    def _pickled(self, method: str) -> bytes:
        metadata = self._impl.get_request_metadata(None, SimpleNamespace(method_name=method))
        metadata.tracing_context = None  # what Ray's router does where its own tracing is off
        return pickle.dumps(metadata)

    async def remote(self, *args: Any, method: str = "__call__") -> Any:
        from contextvars import Context

        loop = asyncio.get_running_loop()
        return await loop.create_task(
            _in_context(Context(), self._replica.handle_request(self._pickled(method), *args))
        )

    def stream(self, *args: Any, method: str) -> Any:
        return self._replica.handle_request_streaming(self._pickled(method), *args)


async def _in_context(context: Any, coroutine: Any) -> Any:
    """Await `coroutine` in a task that knows nothing of its caller, as an actor does."""
    task: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def start() -> None:
        inner = asyncio.ensure_future(coroutine)
        inner.add_done_callback(lambda done: task.set_exception(done.exception()) if done.exception() else task.set_result(done.result()))  # fmt: skip

    context.run(start)
    return await task


def install(monkeypatch: Any) -> Any:
    """Put it where Ray would be; returns the module that makes request metadata."""
    impl, replica = ModuleType("ray.serve._private.default_impl"), ModuleType("ray.serve._private.replica")
    batching = ModuleType("ray.serve.batching")
    impl.get_request_metadata = lambda _init, options: RequestMetadata("r", options.method_name)  # type: ignore[attr-defined]
    replica.Replica, batching._BatchQueue = Replica, BatchQueue  # type: ignore[attr-defined]
    parents = [ModuleType(name) for name in ("ray", "ray.serve", "ray.serve._private")]
    for module in (*parents, impl, replica, batching):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return impl
