"""WebSocket connections of an ASGI application: one span each, with the messages counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiobs import names
from aiobs.guard import swallow
from aiobs.recorder import NOTHING
from aiobs.serving.http import HttpFacts, span_name
from aiobs.serving.leaving import left_because
from aiobs.serving.request import ServerRequest

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
SWITCHED, REFUSED, FAILED = 101, 403, 500
ABNORMAL = 1006
"""Close code of a connection that broke."""


async def answer_websocket(app: Any, scope: Any, receive: Receive, send: Send) -> None:
    """Run `app` for one connection and record it."""
    connection = _opened(scope)
    if connection is None:
        await app(scope, receive, send)
        return
    try:
        await app(scope, connection.receiver(receive), connection.sender(send))
    except BaseException as error:
        connection.close(error)
        raise
    connection.close(None)


def _opened(scope: Any) -> Connection | None:
    try:
        connection = Connection(scope)
    except Exception as error:
        swallow("serving.websocket.begin", error)
        return None
    if connection.request.span is NOTHING:
        connection.request.end()
        return None
    return connection


class Connection:
    """One WebSocket connection, as its messages pass by."""

    __slots__ = ("_code", "_facts", "_received", "_sent", "_status", "request")

    def __init__(self, scope: Any) -> None:
        facts = self._facts = HttpFacts(scope)
        self._received = self._sent = self._status = self._code = 0
        self.request = ServerRequest.begin(facts.name, facts.early(), facts.headers.get, facts.peer)

    def receiver(self, receive: Receive) -> Receive:
        """`receive`, which counts messages and sees the other end leave."""

        async def observed_receive() -> Any:
            message = await receive()
            kind = message["type"]
            if kind == "websocket.receive":
                self._received += 1
            elif kind == "websocket.disconnect":
                # The server's word: hypercorn says 1006 for every end that comes from the other side.
                self._code = self._code or int(message.get("code") or ABNORMAL)
            return message

        return observed_receive

    def sender(self, send: Send) -> Send:
        """`send`, which counts messages."""

        def observed_send(message: Any) -> Awaitable[None]:
            kind = message["type"]
            if kind == "websocket.send":
                self._sent += 1
            elif kind == "websocket.accept":
                self._status = SWITCHED
                self.request.first()
            elif kind == "websocket.close":
                if self._status:
                    self._code = self._code or int(message.get("code") or 1000)
                else:
                    self._status = REFUSED
            elif kind == "websocket.http.response.start":
                self._status = int(message["status"])
            return send(message)

        return observed_send

    def close(self, error: BaseException | None) -> None:
        """The application has returned, or raised `error`."""
        request, facts = self.request, self._facts
        attributes: dict[str, Any] = {}
        try:
            if error is not None and not (self._code and left_because(error)):
                request.fail(error)
                self._status = self._status or FAILED
            attributes = facts.attributes(self._status)
            attributes[names.PROTOCOL_NAME] = "websocket"
            attributes[names.WEBSOCKET_RECEIVED] = self._received
            attributes[names.WEBSOCKET_SENT] = self._sent
            if self._code:
                attributes[names.WEBSOCKET_CLOSE_CODE] = self._code
            route = request.route or facts.route()
            if route:
                request.name_route(route, span_name(facts.name, route))
        except Exception as fault:
            swallow("serving.websocket.end", fault)
        request.end(attributes)
