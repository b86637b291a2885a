"""An ASGI application with a bit of everything, on Starlette."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

import aiobs


async def home(request: Request) -> Response:
    return PlainTextResponse("home")


async def item(request: Request) -> Response:
    with aiobs.span("work", item=request.path_params["id"]):
        await asyncio.sleep(0)
    return JSONResponse({"id": request.path_params["id"]})


async def ticks(request: Request) -> Response:
    """So many chunks, so many seconds apart; before chunk `at` it blocks or waits."""
    asked = request.query_params
    count, gap_s, at = int(asked.get("n", 10)), float(asked.get("gap", 0.01)), int(asked.get("at", -1))

    async def body() -> AsyncIterator[bytes]:
        with aiobs.span("stream", tag=asked.get("tag", "")):
            for number in range(count):
                if number == at and "block" in asked:
                    time.sleep(float(asked["block"]))  # noqa: ASYNC251 - blocking the loop is the point
                elif number == at and "wait" in asked:
                    await asyncio.sleep(float(asked["wait"]))
                elif number:
                    await asyncio.sleep(gap_s)
                if number == at and "fail" in asked:
                    raise ValueError("in the middle")
                yield f"data: {asked.get('tag', '')}{number}\n\n".encode()

    return StreamingResponse(body(), media_type="text/event-stream")


async def upload(request: Request) -> Response:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return JSONResponse({"size": size})


async def fail(request: Request) -> Response:
    raise RuntimeError("before the first byte")


async def later(request: Request) -> Response:
    async def task() -> None:
        with aiobs.span("mail"):
            await asyncio.sleep(0.05)
        if "fail" in request.query_params:
            raise RuntimeError("behind the answer")

    return PlainTextResponse("accepted", status_code=202, background=BackgroundTask(task))


async def sleepy(request: Request) -> Response:
    await asyncio.sleep(30)
    return PlainTextResponse("never")


async def pid(request: Request) -> Response:
    return PlainTextResponse(str(os.getpid()))


async def echo(socket: WebSocket) -> None:
    if "refuse" in socket.query_params:
        await socket.close(4403)
        return
    await socket.accept()
    async for text in socket.iter_text():
        if text == "fail":
            raise RuntimeError("in the connection")
        if text == "bye":
            await socket.close(4001)
            return
        await socket.send_text(text.upper())


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """A mounted application without routes."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"started": True}


async def through(request: Request, call_next: Any) -> Response:
    answered: Response = await call_next(request)
    return answered


def make() -> Starlette:
    """The application; a factory."""
    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", home),
            Route("/ticks", ticks),
            Route("/upload", upload, methods=["POST"]),
            Route("/fail", fail),
            Route("/later", later),
            Route("/sleepy", sleepy),
            Route("/pid", pid),
            WebSocketRoute("/echo/{room}", echo),
            Mount("/tenants/{tenant}", routes=[Route("/items/{id:int}", item)]),
            Mount("/plain", plain),
            Mount(
                "/middle",
                routes=[Route("/ticks", ticks), Route("/", home)],
                middleware=[Middleware(BaseHTTPMiddleware, dispatch=through), Middleware(GZipMiddleware)],
            ),
        ],
    )


app = make()
