"""One request that a server answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from typing import Any

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.recorder import NOTHING, Span, start_span, state
from aiobs.recorder.hot import current_span
from aiobs.serving.callers import NOBODY, Caller, caller_of
from aiobs.serving.loop_watch import LoopWatch, watch_here
from aiobs.serving.stream import Stream
from aiobs.telemetry import SERVER

_current: ContextVar[ServerRequest | None] = ContextVar("aiobs_request", default=None)
NOTICED_NS = 1_000_000
"""Blocking of the loop that is worth saying."""


class ServerRequest:
    """One request a server answers: its SERVER span, and what is known of the answer so far.

    The span is current from :meth:`begin` to :meth:`leave` in the context of the code that began it. All methods
    are for the code that answers; an engine, in whatever thread, only puts attributes into :attr:`engine`.
    No method raises.

    Attributes:
        span: kind SERVER.
        engine: attributes that an engine in this process learned; they become the span's at its end.
        route: template of the matched route (``/items/{id}``), "" while unknown; whoever knows it sets it.
        chunk: ``chunk()``: a streamed chunk or message leaves now; a microsecond at most.
        start_ns: when it began, monotonic.
    """

    __slots__ = (
        "_answered_ns", "_behind", "_failed", "_left", "_request_token", "_span_token", "_watch",
        "chunk", "engine", "route", "span", "start_ns", "stream",
    )  # fmt: skip
    chunk: Callable[[], None]

    def __init__(self, span: Span, start_ns: int, watch: LoopWatch | None) -> None:
        self.span = span
        self.start_ns = start_ns
        self.engine: dict[str, Any] = {}
        self.route = ""
        self.stream = Stream(span, start_ns, watch)
        self.chunk = self.stream.chunk
        self._watch = watch
        self._answered_ns = 0
        self._failed = self._left = False
        self._behind: BaseException | None = None
        self._request_token: Token[ServerRequest | None] | None = None
        self._span_token: Token[Any] | None = None

    @classmethod
    def begin(
        cls, name: str, attributes: Mapping[str, Any], headers: Callable[[str], str | None], peer: str
    ) -> ServerRequest:
        """Begin a request and make it current.

        Args:
            name: of the span; low cardinality.
            attributes: known at once. Those of a request whose process is killed are kept if they are short.
            headers: gives a header (gRPC: metadata) by its lower-case name, or None.
            peer: address of the caller, "" for a unix socket.
        """
        start_ns = monotonic_ns()
        span: Span = NOTHING
        watch = None
        try:
            caller = _caller(headers, peer)
            span = start_span(
                name, attributes, kind=SERVER, parent=caller.parent, root=caller.parent is None, start_ns=start_ns
            )
            if caller.verdict:
                span.set(names.REQUEST_CALLER, caller.verdict)
            if caller.link is not None:
                span.link(caller.link, {names.LINK: names.LINK_CALLER})
            watch = watch_here()
            if watch is not None:
                watch.enter()
        except Exception as error:
            swallow("serving.request.begin", error)
        request = cls(span, start_ns, watch)
        request._request_token = _current.set(request)
        request._span_token = current_span.set(span) if span is not NOTHING else None
        return request

    def first(self) -> None:
        """The first byte of the answer leaves now; only the first call counts."""
        if not self.stream.first_ns:
            self.stream.first_ns = monotonic_ns()

    def fail(self, error: BaseException) -> None:
        """An exception came out of the application."""
        self._failed = True
        self.span.fail(error)

    def failed_with(self, reason: str) -> None:
        """The answer itself says that it failed (``error.type`` is `reason`), unless an exception said more."""
        if not self._failed:
            self._failed = True
            self.span.fail("")
            self.span.set(names.ERROR_TYPE, reason)

    def name_route(self, route: str, name: str) -> None:
        """The template of the route is known: it becomes an attribute, and `name` the span's name."""
        self.route = route
        self.span.set(names.HTTP_ROUTE, route)
        self.span.rename(name)

    def disconnected(self) -> None:
        """The caller left before the answer was whole: not an error of ours."""
        if not self._left and not self._answered_ns:
            self._left = True
            self.span.set(names.REQUEST_DISCONNECTED, True)
            self.span.event(names.REQUEST_DISCONNECTED)

    @property
    def left(self) -> bool:
        """Whether the caller was seen to leave."""
        return self._left

    @property
    def failed(self) -> bool:
        """Whether an exception came out of the application."""
        return self._failed

    def answered(self, attributes: Mapping[str, Any] | None = None, end_ns: int = 0) -> None:
        """The answer is whole, now or since `end_ns` (monotonic): write the span.

        What the request's code still does (background tasks) belongs to the request none the less.
        """
        if self._answered_ns:
            return
        self._answered_ns = end_ns = end_ns or monotonic_ns()
        try:
            facts = self.stream.facts()
            if attributes:
                facts.update(attributes)
            watch = self._watch
            if watch is not None:
                watch.leave()
                blocked = watch.blocked_ns(self.start_ns, end_ns)
                if blocked > NOTICED_NS:
                    facts[names.REQUEST_LOOP_BLOCKED] = blocked / 1e9
            if self.engine:
                facts.update(dict(self.engine))
            self.span.set_all(facts)
        except Exception as error:
            swallow("serving.request.answered", error)
        self.span.end(end_ns)

    def leave(self) -> None:
        """Take the request out of the context in which it began."""
        try:
            if self._request_token is not None:
                _current.reset(self._request_token)
                self._request_token = None
            if self._span_token is not None:
                current_span.reset(self._span_token)
                self._span_token = None
        except (ValueError, RuntimeError):
            pass  # in another context than it began in: that one forgets by itself, or is left by a later call

    def fail_behind(self, error: BaseException) -> None:
        """An exception came out of what the request's code did after the answer; each is recorded once."""
        if self._answered_ns and error is not self._behind:
            self._behind = error
            span = start_span(names.SPAN_BACKGROUND, parent=self.span.context, start_ns=self._answered_ns)
            span.fail(error)
            span.end()

    def noted(self, error: BaseException) -> None:
        """`error`, of what is done behind the answer, has been recorded."""
        self._behind = error

    def end(self, attributes: Mapping[str, Any] | None = None) -> None:
        """The answer is whole and its code is done; only the first call counts."""
        self.answered(attributes)
        self.leave()


def _caller(headers: Callable[[str], str | None], peer: str) -> Caller:
    try:
        return caller_of(headers, peer, state.settings.serving_callers)
    except Exception as error:
        swallow("serving.callers", error)
        return NOBODY


def current_request() -> ServerRequest | None:
    """The request that the running code answers, or None."""
    return _current.get()
