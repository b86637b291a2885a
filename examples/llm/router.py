"""A router before several replicas: each request goes to the one with the fewest outstanding.

Replicas are asked for their health every second. A request whose replica cannot be reached, or says that it cannot
serve, goes to another one as long as nothing has been answered; after the first byte the failure is the caller's
to see.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from llm import observed
from llm.api import event, failure
from llm.streaming import Streamed

HEALTH_S = 1.0
CONNECT_S = 2.0
NOT_PASSED_ON = {
    "host", "content-length", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade",
    "x-forwarded-for", "x-real-ip", "forwarded",
}  # fmt: skip
"""Headers of one connection only; and those by which a replica would take its caller for somebody from outside."""


@dataclass(eq=False)
class Replica:
    """One server behind the router. `turn`: when it was chosen last."""

    url: str
    healthy: bool = True
    outstanding: int = 0
    turn: int = 0


class Router:
    """Knows the replicas and how they are."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.replicas = [Replica(url.rstrip("/")) for url in urls]
        self._turns = count(1)
        self.client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_S), limits=httpx.Limits(max_connections=None), trust_env=False
        )

    def choose(self, tried: Sequence[Replica]) -> Replica | None:
        """The replica with the fewest outstanding requests that is not among those `tried`; one that was found dead
        only where no other is left."""
        left = [replica for replica in self.replicas if replica not in tried]
        chosen = min(left, key=lambda replica: (not replica.healthy, replica.outstanding, replica.turn), default=None)
        if chosen is not None:
            chosen.turn = next(self._turns)
        return chosen

    async def watch(self) -> None:
        """Ask every replica how it is, again and again."""
        while True:
            await asyncio.gather(*map(self._ask, self.replicas))
            await asyncio.sleep(HEALTH_S)

    async def _ask(self, replica: Replica) -> None:
        try:
            answer = await self.client.get(f"{replica.url}/health", timeout=CONNECT_S)
            replica.healthy = answer.status_code == 200
        except httpx.TransportError:
            replica.healthy = False

    async def send(self, request: Request, body: bytes) -> tuple[Replica, httpx.Response] | None:
        """Send it to one replica after the other until one answers; the answer's body is yet to be read."""
        headers = [(name, value) for name, value in request.headers.items() if name not in NOT_PASSED_ON]
        tried: list[Replica] = []
        while (replica := self.choose(tried)) is not None:
            tried.append(replica)
            replica.outstanding += 1
            url = f"{replica.url}{request.url.path}"
            try:
                outgoing = self.client.build_request(request.method, url, params=request.query_params, headers=headers, content=body)  # fmt: skip
                outgoing.headers.update(observed.trace_headers())
                answer = await self.client.send(outgoing, stream=True)
                if answer.status_code not in (502, 503):
                    return replica, answer
                await answer.aclose()
            except httpx.TransportError:
                replica.healthy = False
            except BaseException:
                replica.outstanding -= 1
                raise
            replica.outstanding -= 1
        return None


def create_app(urls: Sequence[str]) -> FastAPI:
    """The router's application, before the replicas at `urls`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.router = router = Router(urls)
        watching = asyncio.create_task(router.watch())
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await router.client.aclose()

    app = FastAPI(title="serve_llm router", lifespan=lifespan)

    @app.get("/health")
    async def health(request: Request) -> JSONResponse:
        replicas = request.app.state.router.replicas
        shown = [{"url": each.url, "healthy": each.healthy, "outstanding": each.outstanding} for each in replicas]
        able = any(each.healthy for each in replicas)
        return JSONResponse({"status": "ok" if able else "no replica", "replicas": shown}, 200 if able else 503)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST"])
    async def relay(request: Request) -> Response:
        router: Router = request.app.state.router
        found = await router.send(request, await request.body())
        if found is None:
            return JSONResponse(failure(503, "no replica can be reached"), 503, {"retry-after": "1"})
        replica, answer = found

        async def done() -> None:
            replica.outstanding -= 1
            await answer.aclose()

        headers = {name: value for name, value in answer.headers.items() if name not in NOT_PASSED_ON}
        return Streamed(_pieces(replica, answer), done, answer.status_code, headers)

    return app


async def _pieces(replica: Replica, answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx.TransportError as error:
        replica.healthy = False
        observed.failed(error)
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise
        yield event(failure(502, f"the replica was lost: {type(error).__name__}"))
