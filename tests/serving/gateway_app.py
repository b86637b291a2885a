"""A gateway for tests: an ASGI application that passes requests for a model on to an engine, with httpx."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

engine = httpx.AsyncClient(base_url=os.environ["ENGINE_URL"])


async def pass_on(request: Request) -> Response:
    sent = engine.build_request(
        "POST", request.url.path, content=await request.body(), headers={"content-type": "application/json"}
    )
    answer = await engine.send(sent, stream=True)

    async def body() -> AsyncIterator[bytes]:
        async for piece in answer.aiter_raw():
            yield piece
        await answer.aclose()

    return StreamingResponse(body(), answer.status_code, media_type=answer.headers["content-type"])


app = Starlette(routes=[Route("/v1/{path:path}", pass_on, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
