"""One call of a model: its CLIENT span, from the request to the last chunk of the answer."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import guarded, swallow
from aiobs.patches.clients.instrumentation import no_http_spans
from aiobs.patches.openai.answers import answer_attributes, finish_reasons, get
from aiobs.recorder import Span, start_span, state
from aiobs.recorder.hot import current_span
from aiobs.recorder.rest import type_name
from aiobs.serving.stream import Stream
from aiobs.telemetry import CLIENT

CANCELLED = frozenset({"CancelledError", "Cancelled"})
"""What asyncio and trio raise in a task that was cancelled."""

LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""Events of the Responses API after which nothing comes."""


class ModelCall:
    """A call under way. No method raises.

    Args:
        name: of the span.
        attributes: known before the request is sent.
    """

    __slots__ = ("__weakref__", "_chunk", "_done", "_finish", "_first", "_last", "_start_ns", "_stream", "_texts", "_usage", "span")  # fmt: skip

    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        self._start_ns = monotonic_ns()
        self.span: Span = start_span(name, attributes, kind=CLIENT, start_ns=self._start_ns)
        self._stream = Stream(self.span, self._start_ns, None)
        self._chunk = self._stream.chunk
        self._done = False
        self._first: Any = None
        self._last: Any = None
        self._usage: Any = None
        self._finish: list[str] = []
        self._texts = 0

    def sending(self) -> Sending:
        """For ``with``: the span is current while the request is sent; an exception ends it."""
        return Sending(self)

    def chunk(self, item: Any) -> None:
        """A chunk of the answer has come. At most a microsecond: this is called for every token."""
        self._chunk()
        try:
            choices = item.choices
        except AttributeError:  # an event of the Responses API: the last one says everything
            if self._first is None:
                self._first = item
            self._last = item
            if item.__dict__.get("delta"):
                self._texts += 1
            return
        try:
            if self._first is None:
                self._first = item
            for choice in choices:
                if choice.finish_reason is not None:
                    self._finish += finish_reasons((choice,))
                delta = choice.__dict__.get("delta")
                if choice.__dict__.get("text") if delta is None else (delta.content or delta.tool_calls):
                    self._texts += 1
            if item.usage is not None:
                self._usage = item
        except Exception as error:
            swallow("patches.openai.chunk", error)

    @guarded("patches.openai.answered")
    def answered(self, answer: Any) -> None:
        """The whole answer is there: an object of the client or parsed JSON; None where it was not looked at."""
        self._end({} if answer is None else answer_attributes(answer))

    @guarded("patches.openai.streamed")
    def streamed(self, error: BaseException | None = None, *, whole: bool = True, end_ns: int | None = None) -> None:
        """The streamed answer has ended, with `error` if it failed; not `whole`: nobody reads on."""
        if self._done:
            return
        facts: dict[str, Any] = {}
        for seen in (self._first, self._usage, self._last):
            if seen is not None:
                facts.update(answer_attributes(seen))
        if self._finish:
            facts[names.GEN_AI_RESPONSE_FINISH] = self._finish
        if names.GEN_AI_OUTPUT_TOKENS not in facts and self._texts:
            facts[names.GEN_AI_OUTPUT_TOKENS] = self._texts
            facts[names.USAGE_SOURCE] = "chunks"
        if self._stream.first_ns:
            facts[names.GEN_AI_RESPONSE_FIRST] = (self._stream.first_ns - self._start_ns) / 1e9
        if error is not None:
            facts.update(self._fail(error))
        elif not whole and not self._finish and get(self._last, "type") not in LAST_EVENTS:
            facts[names.REQUEST_ABANDONED] = True
        self._first = self._last = self._usage = None
        self._end(facts, end_ns)

    def dropped(self) -> None:
        """The stream is gone without having been read to its end or closed: nobody knows since when."""
        self.streamed(whole=False, end_ns=self._stream._last_ns)

    @guarded("patches.openai.failed")
    def failed(self, error: BaseException) -> None:
        """The request came to nothing."""
        self._end(self._fail(error))

    def _fail(self, error: BaseException) -> dict[str, Any]:
        """Mark the span as failed, unless it was this process that gave up."""
        if self._done:
            return {}
        if isinstance(error, GeneratorExit) or type(error).__name__ in CANCELLED:
            return {names.REQUEST_ABANDONED: True}
        status = getattr(error, "status_code", None)
        facts = {names.HTTP_STATUS: status} if isinstance(status, int) else {}
        if getattr(error, "body", None) is None or state.settings.serving_content:
            self.span.fail(error)
            return facts
        # The server's own words may repeat what it was asked, so they are content.
        words = (status, getattr(error, "code", None), getattr(error, "type", None))
        self.span.fail(" ".join(str(word) for word in words if word))
        self.span.event(names.EVENT_EXCEPTION, {names.EXCEPTION_TYPE: type_name(error)})
        return {**facts, names.ERROR_TYPE: type_name(error)}

    def _end(self, facts: dict[str, Any], end_ns: int | None = None) -> None:
        if self._done:
            return
        self._done = True
        facts.update(self._stream.facts())
        self.span.set_all(facts)
        self.span.end(end_ns)

    def __del__(self) -> None:
        if not self._done:
            self.dropped()


class Sending:
    """While the request of a call is sent. A generator would do, at three times the cost."""

    __slots__ = ("_call", "_quiet", "_token")

    def __init__(self, call: ModelCall) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._token = current_span.set(self._call.span)
        self._quiet = no_http_spans()
        self._quiet.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet.__exit__(None, None, None)
        try:
            current_span.reset(self._token)
        except ValueError:
            pass  # a coroutine closed in another context than it ran in
        if error is not None:
            self._call.failed(error)
