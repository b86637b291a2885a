"""An OpenAI-compatible application whose answers are known, on plain ASGI and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

GAP_S = 0.01
FIRST_S = 0.05


async def read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def answer(
    send: Any, status: int, body: bytes, kind: bytes = b"application/json", *more: tuple[bytes, bytes]
) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(send: Any, pieces: list[Any], ending: bytes = b"\n\n") -> None:
    """Pieces are events, bytes, or seconds to wait."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]})  # fmt: skip
    for piece in pieces:
        if isinstance(piece, float):
            await asyncio.sleep(piece)
            continue
        body = piece if isinstance(piece, bytes) else b"data: " + json.dumps(piece).encode() + ending
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def chunk(delta: dict[str, Any], *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "tiny-1", "choices": [choice], **more}


USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 4}}
DONE = b"data: [DONE]\n\n"


def chat_chunks(tokens: int, *, usage: bool) -> list[Any]:
    more = {"usage": None} if usage else {}
    pieces: list[Any] = [chunk({"role": "assistant", "content": ""}, **more), FIRST_S]
    for number in range(tokens):
        pieces += [chunk({"content": f"t{number} data: "}, **more), GAP_S]
    pieces.append(chunk({}, finish="length", **more))
    if usage:
        pieces.append({"id": "chatcmpl-1", "model": "tiny-1", "choices": [], "usage": USAGE})
    return [*pieces, DONE]


def several_chunks() -> list[Any]:
    pieces: list[Any] = [chunk({"role": "assistant"}, index=index) for index in range(3)]
    pieces += [chunk({"content": "a"}, index=index) for index in range(3)]
    pieces.append(chunk({}, index=1, finish="length"))
    pieces += [chunk({"content": "b"}, index=index) for index in (0, 2)] * 8
    pieces += [chunk({}, index=0, finish="stop"), chunk({}, index=2, finish="stop"), DONE]
    return pieces


def tool_chunks() -> list[Any]:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": ""}}
    pieces: list[Any] = [chunk({"role": "assistant", "content": None}), FIRST_S, chunk({"tool_calls": [call]})]
    pieces += [chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]}) for part in ('{"a"', ":1}")]
    return [*pieces, chunk({}, finish="tool_calls"), DONE]


def response_events() -> list[Any]:
    begun = {"id": "resp_1", "object": "response", "model": "tiny-1", "status": "in_progress", "usage": None}
    usage = {"input_tokens": 5, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}}
    pieces: list[Any] = [{"type": "response.created", "response": begun}, FIRST_S]
    for text in ("one", "two", "three"):
        pieces += [{"type": "response.output_text.delta", "delta": text}, GAP_S]
    return [*pieces, {"type": "response.completed", "response": {**begun, "status": "completed", "usage": usage}}]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    raw = await read(receive)
    try:
        asked = json.loads(raw)
    except ValueError:
        error = {"error": {"message": "no JSON", "type": "invalid_request_error", "code": None}}
        await answer(send, 400, json.dumps(error).encode())
        return
    mode, path = asked.get("user", ""), scope["path"]
    if mode == "quota":
        await answer(send, 429, b'{"error": {"message": "slow down", "type": "rate_limit_exceeded"}}')
    elif mode == "gzip":
        await answer(
            send, 200, gzip.compress(b'{"model": "tiny-1"}'), b"application/json", (b"content-encoding", b"gzip")
        )
    elif mode == "garbage":
        await answer(send, 200, b'{"model": "tiny-1", ')
    elif mode == "garbage-stream":
        await stream(send, [b"data: {oops\n\n", b":::\n\n", b"data: [1]\n\ndata: 7\n\n", b"\xff\xfe", DONE])
    elif mode == "late-error":
        await stream(send, [chunk({"content": "a"}), {"error": {"message": "died", "type": "engine_dead"}}, DONE])
    elif mode == "split":
        whole = b"".join(
            piece if isinstance(piece, bytes) else b"data: " + json.dumps(piece).encode() + b"\r\n\r\n"
            for piece in chat_chunks(5, usage=True)
            if not isinstance(piece, float)
        )
        await stream(send, [whole[place : place + 61] for place in range(0, len(whole), 61)])
    elif mode == "several":
        await stream(send, several_chunks())
    elif mode == "tools":
        await stream(send, tool_chunks())
    elif path.endswith("/responses"):
        if asked.get("stream"):
            await stream(send, response_events())
        else:
            await answer(send, 200, json.dumps(response_events()[-1]["response"]).encode())
    elif path.endswith("/embeddings"):
        vectors = [{"object": "embedding", "index": index, "embedding": [0.125] * 1024} for index in range(40)]
        found = {
            "object": "list",
            "data": vectors,
            "model": "tiny-embed",
            "usage": {"prompt_tokens": 80, "total_tokens": 80},
        }
        await answer(send, 200, json.dumps(found).encode())
    elif path.endswith("/chat/completions") and asked.get("stream"):
        await stream(send, chat_chunks(7, usage="stream_options" in asked))
    elif path.endswith("/completions"):
        part = (
            {"text": "said"}
            if not path.endswith("/chat/completions")
            else {"message": {"role": "assistant", "content": "said to ann@example.org"}}
        )
        choice = {"index": 0, "finish_reason": "stop", **part}
        await answer(
            send, 200, json.dumps({"id": "cmpl-1", "model": "tiny-1", "choices": [choice], "usage": USAGE}).encode()
        )
    else:
        await answer(send, 404, b"{}")
