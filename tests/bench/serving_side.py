"""One side of bench_serving.py, in a process of its own: ``serving_side.py asgi|uvicorn|client SIDE CHUNKS REQUESTS``.

Prints its figures as JSON on the last line. The application and the stream are the same on every side. Times are CPU
time of the event loop's thread: what a chunk or a request costs, whatever else the machine is doing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any

WORD = {
    "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny",
    "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}],
}  # fmt: skip
LINE = b"data: " + json.dumps(WORD).encode() + b"\n\n"
LAST = {**WORD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
END = b"data: " + json.dumps(LAST).encode() + b"\n\ndata: [DONE]\n\n"
ASKED = json.dumps({"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "a question " * 20}]})
FINISHING = 1600
"""Chunks of the stream whose end is timed."""
OPEN = 200
"""Requests held open to weigh them."""


# -- the sides ----------------------------------------------------------------------------------------------
def sdk() -> None:
    """OpenTelemetry with its batch processor and an exporter that throws everything away."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Discard(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    trace.set_tracer_provider(provider)


def server_side(side: str, app: Any) -> Any:
    """A uvicorn configuration of `app`, instrumented and loaded."""
    import uvicorn

    if side == "aiobs":
        import aiobs

        aiobs.init(service_name="bench")
    if side.startswith("otel asgi"):
        sdk()
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        quiet: Any = ["receive", "send"] if side.endswith("no chunk spans") else None
        app = OpenTelemetryMiddleware(app, exclude_spans=quiet)
    config = uvicorn.Config(app, proxy_headers=False, log_level="error", access_log=False)
    config.load()
    return config


def client_side(side: str) -> None:
    """Instrument the ``openai`` client."""
    if side == "aiobs":
        import aiobs

        aiobs.init(service_name="bench")
    elif side == "openai-v2":
        sdk()
        from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

        OpenAIInstrumentor().instrument()
    elif side == "OpenLLMetry":
        sdk()
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor as Traceloop

        Traceloop().instrument()
    elif side == "OpenInference":
        sdk()
        from openinference.instrumentation.openai import OpenAIInstrumentor as Openinference

        Openinference().instrument()
    elif side == "OpenLIT":
        sdk()
        import openlit

        openlit.init(disable_metrics=True, disable_events=True)  # they would go to the console


# -- an application and its callers -------------------------------------------------------------------------
class Served:
    """A Starlette application that streams, plainly (``/stream``) and as OpenAI's API does."""

    def __init__(self) -> None:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse, StreamingResponse
        from starlette.routing import Route

        self.last_at = 0.0
        self.hold: asyncio.Event | None = None
        self.full = asyncio.Event()
        self.streaming = 0

        async def words(count: int) -> AsyncIterator[bytes]:
            for _ in range(count):
                yield LINE
            if self.hold is not None:
                self.streaming += 1
                if self.streaming == OPEN:
                    self.full.set()
                await self.hold.wait()
            yield END
            self.last_at = time.thread_time()

        async def stream(request: Request) -> StreamingResponse:
            if request.method == "POST":
                await request.json()
            return StreamingResponse(words(int(request.query_params["n"])), media_type="text/event-stream")

        async def cpu(_: Request) -> PlainTextResponse:
            return PlainTextResponse(str(time.process_time()))

        self.app: Any = Starlette(
            routes=[
                Route("/stream", stream),
                Route("/v1/chat/completions", stream, methods=["POST"]),
                Route("/cpu", cpu),
            ]
        )


def request_of(path: str, count: int) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Scope and ``receive`` as uvicorn gives them."""
    method, body = ("POST", ASKED.encode()) if path.startswith("/v1") else ("GET", b"")
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"n=%d" % count, "root_path": "", "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000), "state": {},
        "headers": [(b"host", b"127.0.0.1:8000"), (b"accept", b"*/*"), (b"user-agent", b"bench"), (b"content-type", b"application/json")],
    }  # fmt: skip
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.sleep(3600)

    return scope, receive


async def discard(_: Any) -> None:
    """Take a message."""


async def asgi(side: str, chunks: int, requests: int) -> dict[str, float]:
    """µs of event loop per chunk and per request, µs to finish, bytes per open request and chunk."""
    served = Served()
    app = server_side(side, served.app).loaded_app
    found: dict[str, float] = {}
    for path, name in (("/stream", "stream"), ("/v1/chat/completions", "chat")):
        for _ in range(20):
            scope, receive = request_of(path, 20)
            await app(scope, receive, discard)
        short, long, finish = [], [], []
        for count, times in ((1, short), (chunks, long), (FINISHING, finish)):
            for _ in range(requests if count == 1 else max(3, requests // 20)):
                scope, receive = request_of(path, count)
                begun = time.thread_time()
                await app(scope, receive, discard)
                ended = time.thread_time()
                times.append(ended - (served.last_at if count == FINISHING else begun))
                await asyncio.sleep(0)
        found[f"{name}, chunk µs"] = (statistics.median(long) - statistics.median(short)) / (chunks - 1) * 1e6
        found[f"{name}, request µs"] = statistics.median(short) * 1e6
        found[f"{name}, finishing µs"] = statistics.median(finish) * 1e6
        few, many = [await weighed(served, app, path, count) for count in (10, 210)]
        found[f"{name}, open request B"] = few
        found[f"{name}, chunk B"] = (many - few) / 200
    return found


async def weighed(served: Served, app: Any, path: str, count: int) -> float:
    """Bytes held by each of OPEN requests after `count` chunks."""
    served.hold, served.full, served.streaming = asyncio.Event(), asyncio.Event(), 0
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    running = [asyncio.ensure_future(app(*request_of(path, count), discard)) for _ in range(OPEN)]
    await served.full.wait()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    served.hold.set()
    await asyncio.gather(*running)
    served.hold = None
    return held / OPEN


# -- through a real server ----------------------------------------------------------------------------------
def uvicorn_server(side: str) -> None:
    """Serve until killed; prints the port."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = uvicorn.Server(server_side(side, Served().app))
    print(listener.getsockname()[1], flush=True)
    server.run(sockets=[listener])


# -- calling a model ----------------------------------------------------------------------------------------
async def client(side: str, chunks: int, requests: int) -> dict[str, float]:
    """µs per chunk and per call, µs from the last chunk to the end, bytes held per chunk of an open stream."""
    client_side(side)
    import openai

    httpx = import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])  # or httpx2
    count = 1

    class Body(httpx.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(count):
                yield LINE
            yield END

    def answer(_: Any) -> Any:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    asked: Any = json.loads(ASKED)
    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with openai.AsyncOpenAI(api_key="none", base_url="http://127.0.0.1:8000/v1", http_client=http) as model:

        async def call() -> tuple[float, float]:
            begun = last = time.thread_time()
            async for _ in await model.chat.completions.create(**asked):
                last = time.thread_time()
            ended = time.thread_time()
            return ended - begun, ended - last

        for _ in range(10):
            await call()
        short = [(await call())[0] for _ in range(requests)]
        count = chunks
        long = [(await call())[0] for _ in range(max(3, requests // 20))]
        count = FINISHING
        finish = [(await call())[1] for _ in range(max(3, requests // 40))]
        gc.collect()
        tracemalloc.start()
        seen, held = 0, [0, 0]
        async for _ in await model.chat.completions.create(**asked):
            seen += 1
            if seen in (100, FINISHING):
                gc.collect()
                held[seen == FINISHING] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return {
        "call, chunk µs": (statistics.median(long) - statistics.median(short)) / (chunks - 1) * 1e6,
        "call, request µs": statistics.median(short) * 1e6,
        "call, finishing µs": statistics.median(finish) * 1e6,
        "call, chunk B": (held[1] - held[0]) / (FINISHING - 100),
    }


if __name__ == "__main__":
    what, which = sys.argv[1:3]
    if what == "uvicorn":
        uvicorn_server(which)
    else:
        measure = {"asgi": asgi, "client": client}[what]
        print(json.dumps(asyncio.run(measure(which, int(sys.argv[3]), int(sys.argv[4])))), flush=True)
        os._exit(0)  # what a side would do at exit (flushing, waiting for threads) is not measured here
