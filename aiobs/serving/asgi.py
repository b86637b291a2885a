"""An ASGI application with a span around each of its HTTP requests.

Messages pass by untouched. While an answer streams, a chunk costs one closure: it returns what the server's own
``send`` returned, so that no coroutine of ours is awaited for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.points import point_async
from aiobs.propagation import enter_chaos, leave_chaos
from aiobs.recorder import NOTHING, state
from aiobs.serving.http import HttpFacts, span_name
from aiobs.serving.leaving import is_gone, left_because
from aiobs.serving.openai_routes import Inference, inference_of
from aiobs.serving.request import ServerRequest
from aiobs.serving.websocket import answer_websocket
from aiobs.wrapping import Live

Message = Any
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
INCOMPLETE = "incomplete_response"
"""``error.type`` of an application that returned before its answer was whole."""
LAST_KINDS = frozenset({"http.response.trailers", "http.response.pathsend", "http.response.zerocopysend"})
"""What may complete an answer, besides its body."""


def observed(app: App, live: Live) -> App:
    """`app`, recorded while `live`; lifespan and unknown kinds of scope pass by."""

    def application(scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        if not live or (state.flight is None and state.sleeping is None):
            return app(scope, receive, send)
        kind = scope["type"]
        if kind == "http":
            return _answer(app, scope, receive, send)
        if kind == "websocket":
            return answer_websocket(app, scope, receive, send)
        return app(scope, receive, send)

    application.observed_app = app  # type: ignore[attr-defined]
    return application


async def _answer(app: App, scope: Any, receive: Receive, send: Send) -> None:
    exchange = _opened(scope, send)
    if exchange is None:
        await app(scope, receive, send)
        return
    mark = enter_chaos(exchange.facts.headers)
    try:
        await point_async(names.POINT_REQUEST)  # unguarded: what a fault raises here is the program's to deal with
        await app(scope, exchange.receiver(receive), exchange.sender())
    except BaseException as error:
        exchange.close(error)
        raise
    finally:
        leave_chaos(mark)
    exchange.close(None)


def _opened(scope: Any, send: Send) -> Exchange | None:
    try:
        exchange = Exchange(scope, send)
    except Exception as error:
        swallow("serving.asgi.begin", error)
        return None
    if exchange.request.span is NOTHING:
        exchange.request.end()
        return None
    return exchange


class Exchange:
    """One HTTP request and its answer, as they pass by.

    Attributes:
        request: what is recorded. `facts`: what the request says of itself.
    """

    __slots__ = (
        "_done_ns", "_inference", "_last_leaves", "_send", "_status", "_trailers", "_whole", "facts", "request",
    )  # fmt: skip

    def __init__(self, scope: Any, send: Send) -> None:
        self._send = send
        self._status = 0
        # It has a length: it does not stream, whatever pieces it comes in.
        self._whole = False
        self._trailers = self._last_leaves = False
        self._done_ns = 0
        facts = self.facts = HttpFacts(scope)
        self._inference: Inference | None = inference_of(scope["method"], scope["path"], facts.headers)
        self.request = ServerRequest.begin(facts.name, facts.early(), facts.headers.get, facts.peer)

    # -- what passes by ------------------------------------------------------------------------------------
    def receiver(self, receive: Receive) -> Receive:
        """`receive`, which sees the caller leave and, for inference, the body."""

        async def observed_receive() -> Message:
            message = await receive()
            try:
                if message["type"] == "http.disconnect":
                    if not self._last_leaves:
                        self.request.disconnected()
                elif self._inference is not None:
                    self._inference.question.add(message.get("body", b""))
            except Exception as error:
                swallow("serving.asgi.receive", error)
            return message

        return observed_receive

    def sender(self) -> Send:
        """The server's ``send``, with an eye on what passes."""
        send, chunk, other, inference = self._send, self.request.chunk, self._other, self._inference
        streaming = False
        look: Callable[[bytes], None] | None = None

        def observed_send(message: Message) -> Awaitable[None]:
            nonlocal streaming, look
            if streaming and message.get("more_body"):
                chunk()
                if look is not None:
                    look(message.get("body", b""))
                return send(message)
            streaming, passed = other(message)
            if streaming and inference is not None:
                look = inference.chunk
            return passed

        return observed_send

    def _other(self, message: Message) -> tuple[bool, Awaitable[None]]:
        """Anything but a further chunk of a stream. Whether a stream has begun, and what ``send`` returns."""
        streaming = last = False
        try:
            kind = message["type"]
            if kind == "http.response.start":
                self._start(message)
            elif kind == "http.response.body":
                streaming, last = self._body(message)
            elif kind in LAST_KINDS:
                self.request.first()
                last = not message.get("more_trailers") and not message.get("more_body")
        except Exception as error:
            swallow("serving.asgi.send", error)
        return streaming, self._last(message) if last else self._send(message)

    def _start(self, message: Message) -> None:
        headers = message.get("headers") or ()
        self._status = int(message["status"])
        self._trailers = bool(message.get("trailers"))
        self._whole = any(key.lower() == b"content-length" for key, _ in headers)
        if self._inference is not None:
            self._inference.answer(self._status, headers)

    def _body(self, message: Message) -> tuple[bool, bool]:
        """Whether the answer streams, and whether it ends here."""
        more, body = bool(message.get("more_body")), message.get("body", b"")
        streaming = more and not self._whole
        if streaming:
            self.request.chunk()
        else:
            self.request.first()
        if self._inference is not None and body:
            self._inference.chunk(body)
        return streaming, not more and not self._trailers

    async def _last(self, message: Message) -> None:
        """Pass on what completes the answer, and end the request when it has gone."""
        if is_gone(self._send):
            self.request.disconnected()
        self._last_leaves = True
        await self._send(message)
        self._done_ns = monotonic_ns()
        # The exception behind a 5xx comes out of the application after the answer that it became.
        if self._status < 500:
            self._finish()

    # -- the end -------------------------------------------------------------------------------------------
    def close(self, error: BaseException | None) -> None:
        """The application has returned, or raised `error`."""
        request = self.request
        try:
            if self._done_ns and self._status < 500:
                if error is not None:
                    request.fail_behind(error)
            else:
                self._unfinished(error)
        except Exception as fault:
            swallow("serving.asgi.end", fault)
        request.leave()

    def _unfinished(self, error: BaseException | None) -> None:
        request = self.request
        if not self._done_ns and is_gone(self._send):
            request.disconnected()
        if error is not None and request.left and left_because(error):
            if self._status >= 500:
                self._status = 0  # what a framework made of the departure reached nobody
        elif error is not None:
            request.fail(error)
        elif not self._done_ns and not request.left:
            request.failed_with(INCOMPLETE)
        if not request.left:
            self._status = self._status or 500  # what servers answer for an application that does not
        self._finish()

    def _finish(self) -> None:
        request, facts = self.request, self.facts
        try:
            attributes = facts.attributes(self._status)
            route = request.route or facts.route()
            if route:
                request.name_route(route, span_name(facts.name, route))
            if self._inference is not None:
                attributes.update(self._inference.facts(request, self._done_ns or monotonic_ns()))
            if self._status >= 500:
                request.failed_with(str(self._status))
        except Exception as error:
            swallow("serving.asgi.facts", error)
            attributes = {}
        request.answered(attributes, self._done_ns)
