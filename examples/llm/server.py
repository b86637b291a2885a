"""The engine behind an HTTP API: completions and chat completions, streamed or whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from llm import observed
from llm.api import END_OF_STREAM, TENANT_HEADER, Chat, Completion, Frame, event, failure
from llm.engine import Engine, Generation, News
from llm.model import decode, encode
from llm.streaming import Streamed

LEFT = 499
"""Status of an answer that nobody waits for."""
T = TypeVar("T")
MakeEngine = Callable[[Callable[[list[News]], None]], Engine]


class EngineError(Exception):
    """The engine could not finish a generation."""


class CallerLeftError(Exception):
    """The caller has closed the connection."""


class Answers:
    """Brings the engine's news to the tasks that answer, and makes text of them."""

    def __init__(self, make_engine: MakeEngine) -> None:
        self._inboxes: dict[int, asyncio.Queue[News]] = {}
        self._loop = asyncio.get_running_loop()
        self.engine = make_engine(self._dispatch)
        self.engine.start()

    def _dispatch(self, news: list[News]) -> None:
        """In the engine's thread."""
        self._loop.call_soon_threadsafe(self._spread, news)

    def _spread(self, news: list[News]) -> None:
        for item in news:
            inbox = self._inboxes.get(item[0].number)
            if inbox is not None:
                inbox.put_nowait(item)

    def begin(self, it: Generation) -> None:
        """Hand a generation to the engine. Raises ValueError."""
        self.engine.submit(it)
        self._inboxes[it.number] = asyncio.Queue()

    def end(self, it: Generation) -> None:
        """Nobody waits for it any more, whether it is done or not."""
        if self._inboxes.pop(it.number, None) is not None:
            it.seen.aborted("disconnected")  # unless it has ended: only the first word counts
            self.engine.cancel(it)

    async def texts(self, it: Generation) -> AsyncIterator[tuple[str, str]]:
        """(text, why it ended or "") as they come; what may be the beginning of a stop text is held back.

        Raises:
            EngineError: it will not be finished.
        """
        held, longest, reason = "", max([len(text) for text in it.stop], default=1), ""
        while not reason:
            _, token, reason = await self._inboxes[it.number].get()
            if isinstance(token, BaseException):
                raise EngineError(f"{type(token).__name__}: {token}") from token
            held += "" if token is None else decode([token])
            found = [held.index(text) for text in it.stop if text in held]
            ready = min(found) if found else len(held) if reason else max(0, len(held) - longest + 1)
            text, held = held[:ready], held[ready:]
            if text or reason:
                yield text, reason


def create_app(model: str, make_engine: MakeEngine) -> FastAPI:
    """The application that serves `model`; `make_engine` makes its engine, given where to put its news."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.answers = answers = Answers(make_engine)
        yield
        await asyncio.to_thread(answers.engine.stop)

    app = FastAPI(title="serve_llm", lifespan=lifespan)
    numbers = count()

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
        return JSONResponse(failure(400, said), 400)

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: Chat) -> Response:
        return await _answer(request, body, Frame(True, next(numbers), model))

    @app.post("/v1/completions")
    async def completions(request: Request, body: Completion) -> Response:
        return await _answer(request, body, Frame(False, next(numbers), model))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "serve_llm"}]}

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        return {"status": "ok", **request.app.state.answers.engine.load}

    return app


async def _answer(request: Request, body: Chat | Completion, frame: Frame) -> Response:
    observed.tenant(request.headers.get(TENANT_HEADER, ""))
    if body.model != frame.model:
        return JSONResponse(failure(404, f"model={body.model!r}: this server has {frame.model!r}"), 404)
    answers: Answers = request.app.state.answers
    tokens = encode(body.prompt)
    operation = "chat" if frame.chat else "text_completion"
    seen = observed.engine_request(frame.model, operation, body.model_dump(exclude_unset=True), len(tokens))
    it = Generation(tokens, body.max_tokens, seen, body.temperature, body.seed, body.stops(), body.ignore_eos)
    try:
        answers.begin(it)
    except ValueError as error:
        seen.aborted("refused")
        return JSONResponse(failure(400, str(error)), 400)
    texts, handed_on = answers.texts(it), False
    try:
        if body.stream:
            first = await _unless_left(request, anext(texts))
            pieces = _pieces(frame, it, first, texts, usage=bool(body.stream_options.get("include_usage")))

            async def done() -> None:
                answers.end(it)

            handed_on = True
            return Streamed(pieces, done, headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        text, reason = await _unless_left(request, _whole(texts))
        return JSONResponse(frame.whole(text, reason, _usage(it)))
    except EngineError as error:
        observed.failed(error)
        return JSONResponse(failure(500, str(error)), 500)
    except CallerLeftError:
        return Response(status_code=LEFT)
    finally:
        if not handed_on:
            answers.end(it)


async def _whole(texts: AsyncIterator[tuple[str, str]]) -> tuple[str, str]:
    found = [each async for each in texts]
    return "".join(text for text, _ in found), found[-1][1]


async def _pieces(
    frame: Frame, it: Generation, first: tuple[str, str], texts: AsyncIterator[tuple[str, str]], *, usage: bool
) -> AsyncIterator[bytes]:
    yield frame.piece(*first)
    try:
        async for text, reason in texts:
            yield frame.piece(text, reason)
        if usage:
            yield frame.usage(_usage(it))
        yield END_OF_STREAM
    except EngineError as error:
        observed.failed(error)
        yield event(failure(500, str(error)))


def _usage(it: Generation) -> dict[str, int]:
    made = len(it.tokens) - it.prompt
    return {"prompt_tokens": it.prompt, "completion_tokens": made, "total_tokens": it.prompt + made}


async def _unless_left(request: Request, coming: Awaitable[T]) -> T:
    """What `coming` brings, unless the caller leaves before: then CallerLeftError."""
    task = asyncio.ensure_future(coming)
    left = asyncio.ensure_future(request.receive())  # behind the body there is only the end of the connection
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CallerLeftError
        return task.result()
    finally:
        task.cancel()
        left.cancel()
