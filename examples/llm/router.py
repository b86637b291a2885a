"""A router before several replicas: each request goes to the one with the fewest outstanding.

What fails before the first byte of an answer is tried once more, on another replica; after it the failure is the
caller's to see. Replicas that do not answer are left alone for a while, none gets more than it can hold, no tenant more
than its share, and a request that keeps killing replicas is refused (:mod:`llm.bulkheads`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from llm import observed
from llm.api import REPLICA_HEADER, TENANT_HEADER, event, failure
from llm.bulkheads import Limits, Suspects, Tenants
from llm.replicas import Replica, Replicas
from llm.streaming import LEFT, CallerLeftError, Streamed, unless_left

NOT_PASSED_ON = {
    "host", "content-length", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade",
    "x-forwarded-for", "x-real-ip", "forwarded",
}  # fmt: skip
"""Headers of one connection only; and those by which a replica would take its caller for somebody from outside."""
AGAIN_S = 0.1
RETRIES = 1
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
LOST = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""How a request fails whose replica has died with it."""
SHARED = 24


@dataclass
class Sent:
    """An answer that has begun; its body is yet to be read."""

    replica: Replica
    answer: httpx.Response


@dataclass
class Refusal:
    """Why there is none."""

    status: int
    message: str

    def response(self) -> Response:
        """As the caller gets it."""
        return JSONResponse(failure(self.status, self.message), self.status, {"retry-after": "1"})


class Router:
    """Sends requests to replicas."""

    def __init__(self, words: Sequence[str], limits: Limits, registry: str = "") -> None:
        self.limits = limits
        self.tenants, self._suspects = Tenants(limits), Suspects()
        timeout = httpx.Timeout(limits.answer_s, connect=limits.connect_s) if limits.walls else None
        # Without walls all replicas share one pool of connections, and one that hangs comes to hold all of it.
        pool = httpx.Limits(max_connections=None if limits.walls else SHARED)
        self.client = httpx.AsyncClient(timeout=timeout, limits=pool, trust_env=False)
        self.replicas = Replicas(self.client, limits, words, registry)
        self._registry = registry

    async def send(self, request: Request, body: bytes, tenant: str) -> Sent | Refusal:
        """Send a request that has its turn; the turn is over, unless an answer has begun.

        Raises:
            CallerLeftError: nobody waits for it any more.
        """
        found: Sent | Refusal | None = None
        try:
            if not self.limits.walls:
                found = await self._send_whatever_it_costs(request, body)
            else:
                found = await unless_left(request, self._send(request, body, tenant))
        finally:
            if not isinstance(found, Sent):
                self.tenants.leave(tenant)
        return found

    async def _send(self, request: Request, body: bytes, tenant: str) -> Sent | Refusal:
        """To a replica, and to another one where that fails before it has answered anything."""
        mark = self._suspects.mark(tenant, body)
        tried: list[Replica] = []
        failures = 0
        while failures <= RETRIES:
            if self._suspects.is_poison(mark):
                return Refusal(422, "replicas have died of this request: it is not sent again")
            replica = self.replicas.choose(tried)
            if replica is None:
                break
            tried.append(replica)
            with self._suspects.trial(mark) as allowed:
                if not allowed:
                    return Refusal(503, "a replica has died of this request, or beside it: a copy is being tried")
                found = await self._try(replica, request, body)
            if isinstance(found, Sent):
                self._suspects.answered(mark)
                return found
            if found in LOST:
                self._suspects.lost(mark)
            failures += found not in NEVER_SENT
        if tried:
            return Refusal(503, f"{' and '.join(it.name for it in tried)} did not answer")
        return Refusal(503, "every replica has as much as it can hold")

    async def _send_whatever_it_costs(self, request: Request, body: bytes) -> Sent | Refusal:
        """What a router does that knows no bulkheads: ask the registry each time, try for ever, whatever it kills."""
        while not await request.is_disconnected():
            if self._registry and not await self.replicas.look_up():
                await asyncio.sleep(AGAIN_S)
                continue
            replica = self.replicas.choose(())
            found = await self._try(replica, request, body) if replica is not None else None
            if isinstance(found, Sent):
                return found
            await asyncio.sleep(AGAIN_S)
        return Refusal(503, "nobody waits for it any more")

    async def _try(self, replica: Replica, request: Request, body: bytes) -> Sent | type[Exception] | None:
        """Its answer, or what went wrong; None where the replica says that it cannot serve."""
        headers = [(name, value) for name, value in request.headers.items() if name not in NOT_PASSED_ON]
        url = f"{replica.url}{request.url.path}"
        outgoing = self.client.build_request(request.method, url, params=request.query_params, headers=headers, content=body)  # fmt: skip
        outgoing.headers.update(observed.trace_headers())
        observed.replica(replica.name)
        replica.outstanding += 1
        error = None
        try:
            answer = await self.client.send(outgoing, stream=True)
            if answer.status_code not in (502, 503):
                replica.answered()
                return Sent(replica, answer)
            await answer.aclose()
        except httpx.TransportError as found:
            error = type(found)
        except BaseException:
            replica.outstanding -= 1
            raise
        replica.outstanding -= 1
        replica.failed(self.limits)
        return error


def create_app(words: Sequence[str], limits: Limits, registry: str = "") -> FastAPI:
    """The router's application, before the replicas that `words` or the registry name."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.router = router = Router(words, limits, registry)
        watching = asyncio.create_task(router.replicas.watch())
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await router.client.aclose()

    app = FastAPI(title="serve_llm router", lifespan=lifespan)

    @app.get("/health")
    async def health(request: Request) -> JSONResponse:
        replicas = request.app.state.router.replicas.all
        shown = [
            {"name": it.name, "url": it.url, "healthy": it.is_well(), "outstanding": it.outstanding} for it in replicas
        ]
        able = any(it.is_well() for it in replicas)
        return JSONResponse({"status": "ok" if able else "no replica", "replicas": shown}, 200 if able else 503)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST"])
    async def relay(request: Request) -> Response:
        router: Router = request.app.state.router
        tenant = request.headers.get(TENANT_HEADER, "")
        observed.tenant(tenant)
        body = await request.body()
        # A caller who has left is not worked for: answers that come too late would make the next ones late as well.
        try:
            if not await unless_left(request, router.tenants.enter(tenant)):
                return Refusal(429, f"tenant {tenant!r} has as many requests under way as it may").response()
            found = await router.send(request, body, tenant)
        except CallerLeftError:
            return Response(status_code=LEFT)
        if isinstance(found, Refusal):
            return found.response()
        replica, answer = found.replica, found.answer

        async def done() -> None:
            replica.outstanding -= 1
            router.tenants.leave(tenant)
            await answer.aclose()

        headers = {name: value for name, value in answer.headers.items() if name not in NOT_PASSED_ON}
        headers[REPLICA_HEADER] = replica.name
        return Streamed(_pieces(router, replica, answer), done, answer.status_code, headers)

    return app


async def _pieces(router: Router, replica: Replica, answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx.TransportError as error:
        replica.failed(router.limits)
        observed.failed(error)
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise
        yield event(failure(502, f"the replica was lost: {type(error).__name__}"))
