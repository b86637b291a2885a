"""A small OpenAI-compatible server for tests: Starlette under uvicorn, in a process of its own.

The model's name chooses what happens: ``plain``, ``usage`` (a stream ends with its usage), ``slow`` (20 ms between
chunks), ``limited`` (429), ``flaky`` (503 once, then well), ``broken`` (a stream that ends in an error), ``cut`` (a
stream whose connection is closed). ``/seen`` gives the headers of the requests so far, and forgets them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = ["one", " two", " three", " four"]
seen: list[dict[str, str]] = []
tried: set[str] = set()


def usage(kind: str) -> dict[str, Any]:
    if kind == "responses":
        details = {"input_tokens_details": {"cached_tokens": 2}, "output_tokens_details": {"reasoning_tokens": 1}}
        return {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12, **details}
    return {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def chat_chunk(model: str, **choice: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {}, "finish_reason": None, **choice}] if choice else []
    return {
        "id": "chat-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model + "-0613",
        "choices": choices,
    }


async def chat_chunks(model: str) -> AsyncIterator[bytes]:
    chunks = [chat_chunk(model, delta={"role": "assistant"})]
    chunks += [chat_chunk(model, delta={"content": word}) for word in WORDS]
    chunks.append(chat_chunk(model, finish_reason="stop"))
    if model == "usage":
        chunks.append({**chat_chunk(model), "usage": usage("chat")})
    for number, chunk in enumerate(chunks):
        if model == "slow":
            await asyncio.sleep(0.02)
        if number == 3 and model == "broken":
            yield b'data: {"error": {"message": "secret words", "code": "boom"}}\n\n'
            return
        if number == 3 and model == "cut":
            raise ConnectionError("cut")
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


async def response_events(model: str) -> AsyncIterator[bytes]:
    base = response_body(model)
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**base, "status": "in_progress", "usage": None}}
    ]
    events += [
        {
            "type": "response.output_text.delta",
            "item_id": "m",
            "output_index": 0,
            "content_index": 0,
            "delta": word,
            "logprobs": [],
        }
        for word in WORDS
    ]
    events.append({"type": "response.completed", "response": base})
    for number, event in enumerate(events):
        yield b"event: " + event["type"].encode() + b"\ndata: " + json.dumps({**event, "sequence_number": number}).encode() + b"\n\n"  # fmt: skip


def response_body(model: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": "".join(WORDS), "annotations": []}]
    output = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}]
    return {
        "id": "resp-1", "object": "response", "created_at": 1, "model": model + "-0613", "status": "completed",
        "output": output, "usage": usage("responses"), "parallel_tool_calls": False, "tool_choice": "auto", "tools": [],
    }  # fmt: skip


async def answer(request: Request) -> Response:
    seen.append(dict(request.headers))
    body = await request.json()
    model, path = body["model"], request.url.path
    if model == "limited":
        return JSONResponse({"error": {"message": "secret words", "code": "rate_limit_exceeded"}}, 429)
    if model == "flaky" and model not in tried:
        tried.add(model)
        return JSONResponse({"error": {"message": "later"}}, 503, {"retry-after-ms": "1"})
    if path.endswith("/embeddings"):
        rows = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        return JSONResponse(
            {"object": "list", "model": model, "data": rows, "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        )
    if path.endswith("/responses"):
        if body.get("stream"):
            return StreamingResponse(response_events(model), media_type="text/event-stream")
        return JSONResponse(response_body(model))
    if body.get("stream"):
        return StreamingResponse(chat_chunks(model), media_type="text/event-stream")
    if path.endswith("/chat/completions"):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "".join(WORDS)}}
        name = "chat.completion"
    else:
        choice, name = {"index": 0, "finish_reason": "length", "text": "".join(WORDS)}, "text_completion"
    return JSONResponse(
        {
            "id": "x-1",
            "object": name,
            "created": 1,
            "model": model + "-0613",
            "choices": [choice],
            "usage": usage("chat"),
        }
    )


async def headers_seen(request: Request) -> Response:
    found, seen[:] = list(seen), []
    return JSONResponse(found)


async def take(request: Request) -> Response:
    seen.append(dict(request.headers))
    return JSONResponse({"ok": True})


app = Starlette(
    routes=[
        *(
            Route(f"/v1/{path}", answer, methods=["POST"])
            for path in ("chat/completions", "completions", "responses", "embeddings")
        ),
        Route("/seen", headers_seen),
        Route("/take", take, methods=["GET", "POST"]),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
