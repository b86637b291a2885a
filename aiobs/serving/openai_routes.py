"""OpenAI-compatible routes, under any prefix: what their bodies say, without touching them.

Only the first 64 KiB of a request, the beginning of an answer and its last chunks are looked into; between them a
streamed chunk costs a count.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.recorder import state
from aiobs.serving import openai_bodies as bodies
from aiobs.serving.content import content_facts
from aiobs.serving.openai_question import BODY_LIMIT, COMPRESSED, MALFORMED, Question
from aiobs.serving.request import ServerRequest
from aiobs.serving.sse import payloads_in

OPERATIONS = {
    "/chat/completions": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
    "/responses": "chat",
}
LAST_CHUNKS = 16
"""Chunks of a stream that are kept for its end; read from the last one on, until one has output."""
FIRST_CHUNKS = 32
"""Chunks of an answer that are looked into for its first output."""
ENGINES = ("vllm", "sglang", "llama_cpp")
"""Modules that say who answers; an engine in this process that records itself says it better."""


def inference_of(method: str, path: str, headers: Mapping[str, str]) -> Inference | None:
    """What watches a request to `path`, or None where it is none for a model."""
    if method == "POST":
        for ending, operation in OPERATIONS.items():
            if path.endswith(ending):
                return Inference(operation, headers)
    return None


class Inference:
    """An inference request, as its bodies pass by. No method raises.

    Attributes:
        question: the request's body.
        chunk: ``chunk(body)``: a piece of the answer passes by; to be fetched anew once the answer has begun.
    """

    __slots__ = (
        "_events", "_facts", "_finish", "_first_ns", "_known", "_last", "_operation", "_outputs", "_rest", "_status", "_text",
        "_to_read", "_to_write", "_unread", "chunk", "question",
    )  # fmt: skip

    def __init__(self, operation: str, headers: Mapping[str, str]) -> None:
        self._operation = operation
        self._unread = ""
        self.question = Question(headers)
        self._status = 0
        self.chunk: Callable[[bytes], None] = _pass
        self._to_read = FIRST_CHUNKS
        self._to_write = 0
        """Characters of the completion that are still to be recorded."""
        self._text: list[str] = []
        self._last: deque[bytes] = deque(maxlen=LAST_CHUNKS)
        self._rest = b""
        """What has been read of the answer or, while it streams, the beginning of an event whose end is to come."""
        self._events = self._known = self._outputs = 0
        """Events of the stream; those that were looked into; of these, those with output."""
        self._first_ns = 0
        self._facts: dict[str, Any] = {}
        self._finish: dict[int, str] = {}

    # -- what passes by ------------------------------------------------------------------------------------
    def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The answer begins."""
        self._status = status
        self.question.read()
        settings = state.settings
        self._to_write = settings.serving_content_limit if settings.serving_content else 0
        self.chunk = self._piece
        for key, value in headers:
            name = key.lower()
            if name == b"content-type" and value.lower().startswith(b"text/event-stream"):
                self.chunk = self._event
            elif name == b"content-encoding" and value.lower() != b"identity":
                self._unread, self.chunk = COMPRESSED, _pass
                return

    def _piece(self, body: bytes) -> None:
        """A piece of an answer that is one JSON text: its beginning and its end are kept."""
        if len(self._rest) < BODY_LIMIT:
            self._rest += body[:BODY_LIMIT]
            body = body[BODY_LIMIT:]
        if body:
            self._last.append(bytes(body[-BODY_LIMIT:]))

    def _event(self, body: bytes) -> None:
        """A chunk of server-sent events. Line ends never occur inside JSON, so ``data:`` in a text is no event."""
        try:
            self._events += body.count(b"\ndata:") + body.startswith(b"data:")
            if self._to_read or self._to_write > 0:
                self._read_chunk(body)
            elif (
                self.question.several
                and b'_reason":' in body
                and b'_reason":null' not in body
                and b'_reason": null' not in body
            ):
                self._note_events(body)
            else:
                self._last.append(body if len(body) < BODY_LIMIT else body[-BODY_LIMIT:])
        except Exception as error:
            self.chunk = _pass
            swallow("serving.openai.event", error)

    def _read_chunk(self, body: bytes) -> None:
        """Look into a chunk of the beginning, until the first output has been found."""
        whole, end, rest = (self._rest + body).rpartition(b"\n")
        self._rest = rest[-BODY_LIMIT:]
        self._note_events(whole + end)
        if self._first_ns:
            self._to_read = 0
        elif self._to_read:
            self._to_read -= 1

    def _note_events(self, text: bytes) -> None:
        for event in payloads_in(text.splitlines()):
            if self._note(event) and not self._first_ns:
                self._first_ns = monotonic_ns()

    def _note(self, event: Any) -> bool:
        """Take from one event what it tells; whether it carries output."""
        self._known += 1
        if not isinstance(event, dict):
            return False
        self._facts.update(bodies.answer_facts(event))
        self._finish.update(bodies.finish_reasons(event))
        if event.get("error"):
            self._facts[names.ERROR_TYPE] = bodies.error_type(event) or "error"
        if not bodies.holds_output(event):
            return False
        self._outputs += 1
        if self._to_write > 0:
            text = bodies.text_of(event)
            self._text.append(text)
            self._to_write -= len(text)
        return True

    # -- the end -------------------------------------------------------------------------------------------
    def facts(self, request: ServerRequest, end_ns: int) -> dict[str, Any]:
        """Attributes of the request, whose answer was whole, or broke off, at `end_ns`."""
        question = self.question
        if not self._status:
            question.read()
        if not question.for_model or (self._status in (404, 405) and not question.facts):
            return {}  # something else, or nobody was there
        facts: dict[str, Any] = {names.GEN_AI_OPERATION: self._operation, names.GEN_AI_PROVIDER: provider()}
        facts.update(question.facts)
        streams = self.chunk == self._event
        if streams:
            self._end_of_stream()
        elif self._rest:
            self._end_of_text()
        failure = self._facts.pop(names.ERROR_TYPE, "")
        facts.update(self._facts)
        if self._finish:
            facts[names.GEN_AI_RESPONSE_FINISH] = [self._finish[index] for index in sorted(self._finish)]
        if request.stream.first_ns and streams:
            facts[names.GEN_AI_RESPONSE_FIRST] = (request.stream.first_ns - request.start_ns) / 1e9
        if failure:
            request.span.set(names.ERROR_TYPE, failure)
            if self._status < 400:
                request.failed_with(failure)  # said in the stream, after a 200
        self._count(request, facts, end_ns)
        unread = question.unread or self._unread
        if unread:
            facts[names.REQUEST_UNREAD] = unread
        if question.content:
            facts.update(content_facts(question.content, "".join(self._text), self._finish.get(0, "")))
        return facts

    def _end_of_stream(self) -> None:
        """Read the end, backwards: of what comes before the last output, nothing is to be learned."""
        self._to_write = 0
        lines = (self._rest + b"".join(self._last)).splitlines()
        self._rest = b""
        self._last.clear()
        events: list[Any] = []
        for event in payloads_in(reversed(lines)):
            events.append(event)
            if bodies.holds_output(event):
                break
        for event in reversed(events):
            self._note(event)

    def _end_of_text(self) -> None:
        """Read an answer that is one JSON text; of a long one, what is at its beginning and its end."""
        text = self._rest.decode("utf-8", "replace")
        if self._last:
            body = bodies.leading_fields(text)
            body.update(bodies.trailing_usage(b"".join(self._last).decode("utf-8", "replace")))
        else:
            try:
                body = bodies.fields_of(text)
            except ValueError:
                self._unread = MALFORMED
                return
        self._facts = bodies.answer_facts(body)
        self._finish = bodies.finish_reasons(body)
        if self._to_write:
            self._text = [bodies.text_of(body)]
        if self._status >= 400:
            kind = bodies.error_type(body)
            if kind:
                self._facts[names.ERROR_TYPE] = kind

    def _count(self, request: ServerRequest, facts: dict[str, Any], end_ns: int) -> None:
        """Where the tokens were counted, and what they took."""
        tokens = facts.get(names.GEN_AI_OUTPUT_TOKENS)
        source = "usage" if tokens is not None or names.GEN_AI_INPUT_TOKENS in facts else ""
        engine = request.engine.get(names.GEN_AI_OUTPUT_TOKENS)
        if engine is not None:
            tokens, source = engine, "engine"
        elif not tokens and self._events:
            # Of the events nobody looked into, each is taken for one token. Some servers fill usage with zeros.
            counted = self._outputs + max(0, self._events - self._known)
            if tokens is None or counted:
                tokens, source = counted, "chunks"
                facts[names.GEN_AI_OUTPUT_TOKENS] = counted
        if source:
            facts[names.USAGE_SOURCE] = source
        if not self._first_ns:
            return
        first_ns = self._first_ns
        facts[names.TIME_TO_FIRST_TOKEN] = (first_ns - request.start_ns) / 1e9
        if tokens and tokens > 1 and self._status < 400 and not request.failed and not request.left:
            facts[names.TIME_PER_OUTPUT_TOKEN] = (end_ns - first_ns) / 1e9 / (tokens - 1)


def _pass(_body: bytes) -> None:
    """What is not looked into."""


def provider() -> str:
    """Who answers, as far as this process shows; ``openai`` stands for the interface."""
    return next((name for name in ENGINES if name in sys.modules), "openai")
