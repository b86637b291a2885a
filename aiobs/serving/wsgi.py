"""A WSGI application with a span around each of its requests.

What the application and the server exchange passes by untouched: ``start_response`` and its ``write``, files for
``wsgi.file_wrapper``, lists. Only an answer that is iterated is given on in a wrapper, which closes what it wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.recorder import NOTHING, state
from aiobs.serving.http import HttpFacts, span_name
from aiobs.serving.openai_routes import Inference, inference_of
from aiobs.serving.request import ServerRequest
from aiobs.wrapping import Live

App = Callable[[Any, Any], Any]
_NO_BODY = frozenset({204, 304})
_HEADERS = {
    "HTTP_TRACEPARENT": b"traceparent",
    "HTTP_TRACESTATE": b"tracestate",
    "HTTP_X_FORWARDED_FOR": b"x-forwarded-for",
    "HTTP_FORWARDED": b"forwarded",
    "HTTP_X_REAL_IP": b"x-real-ip",
    "HTTP_USER_AGENT": b"user-agent",
    "CONTENT_TYPE": b"content-type",
    "HTTP_CONTENT_ENCODING": b"content-encoding",
    "CONTENT_LENGTH": b"content-length",
}


def observed(app: App, live: Live) -> App:
    """`app`, recorded while `live`; an application that is observed already stays as it is."""
    if hasattr(app, "observed_app"):
        return app

    def application(environ: Any, start_response: Any) -> Any:
        exchange = _opened(environ, start_response) if live else None
        if exchange is None:
            return app(environ, start_response)
        try:
            answer = app(environ, exchange.start_response)
        except BaseException as error:
            exchange.failed(error)
            raise
        return exchange.answer(answer)

    application.observed_app = app  # type: ignore[attr-defined]
    return application


def _opened(environ: Any, start_response: Any) -> Exchange | None:
    if state.flight is None and state.sleeping is None:
        return None
    try:
        exchange = Exchange(environ, start_response)
    except Exception as error:
        swallow("serving.wsgi.begin", error)
        return None
    if exchange.request.span is NOTHING:
        exchange.request.end()
        return None
    return exchange


def scope_of(environ: Mapping[str, Any]) -> dict[str, Any]:
    """What ASGI would say of the request that `environ` describes."""
    path = _text(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
    peer, port = environ.get("REMOTE_ADDR"), str(environ.get("SERVER_PORT", ""))
    return {
        "method": environ.get("REQUEST_METHOD", "GET"),
        "path": path,
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1", "replace"),
        "headers": [
            (name, str(environ[key]).encode("latin-1", "replace")) for key, name in _HEADERS.items() if environ.get(key)
        ],
        "client": (peer, environ.get("REMOTE_PORT")) if peer else None,
        "server": (environ.get("SERVER_NAME", ""), int(port) if port.isdigit() else None),
        "http_version": environ.get("SERVER_PROTOCOL", "").rpartition("/")[2],
    }


def _text(raw: str) -> str:
    """A path as WSGI has it, bytes in a str, as the text that it is."""
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


class Exchange:
    """One request and its answer, as they pass by. Only :meth:`start_response` raises, what the server's raises.

    Attributes:
        request: what is recorded.
    """

    def __init__(self, environ: Any, start_response: Any) -> None:
        facts = self._facts = HttpFacts(scope_of(environ))
        self._environ = environ
        self._start_response = start_response
        self._status = self._sent = 0
        self._length = -1
        self._inference: Inference | None = inference_of(
            environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", ""), facts.headers
        )
        if self._inference is not None and "wsgi.input" in environ:
            environ["wsgi.input"] = Asked(environ["wsgi.input"], self._inference)
        self.request = ServerRequest.begin(facts.name, facts.early(), facts.headers.get, facts.peer)

    def start_response(self, status: Any, headers: Any, *exc_info: Any, **named: Any) -> Any:
        """The server's ``start_response``, which sees the status; its ``write`` sees what is written."""
        write = self._start_response(status, headers, *exc_info, **named)
        try:
            self._started(status, headers)
        except Exception as error:
            swallow("serving.wsgi.start", error)

        def observed_write(body: bytes) -> Any:
            self.leaves(body)
            try:
                return write(body)
            except OSError:
                self.request.disconnected()
                raise

        return observed_write

    def _started(self, status: str, headers: Iterable[tuple[str, str]]) -> None:
        self._status = int(status[:3])
        self._length = -1
        for key, value in headers:
            if key.lower() == "content-length" and value.isdigit():
                self._length = int(value)
        if self._inference is not None:
            self._inference.answer(
                self._status, [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers]
            )

    def leaves(self, body: bytes) -> None:
        """A piece of the answer is handed to the server."""
        try:
            if body:
                self._sent += len(body)
                if self._length < 0:
                    self.request.chunk()
                else:  # it has a length: it does not stream, whatever pieces it comes in
                    self.request.first()
                if self._inference is not None:
                    self._inference.chunk(body)
        except Exception as error:
            swallow("serving.wsgi.leaves", error)

    def answer(self, answer: Any) -> Any:
        """What the server gets for what the application returned."""
        try:
            if isinstance(answer, (list, tuple)):
                # In one piece, and the server may treat it as such: the very object.
                self._length = max(self._length, 0)
                for body in answer:
                    self.leaves(body)
                self.ended()
                return answer
            wrapper = self._environ.get("wsgi.file_wrapper")
            if isinstance(wrapper, type) and isinstance(answer, wrapper):
                self._watch_file(answer)
                return answer
            return Sized(answer, self) if hasattr(answer, "__len__") else Answer(answer, self)
        except Exception as error:
            swallow("serving.wsgi.answer", error)
            return answer

    def _watch_file(self, file: Any) -> None:
        """A server sends such a file by itself and closes it when it is done."""
        self.request.first()
        close = getattr(file, "close", None)
        if close is None:
            self.ended()
            return

        def observed_close() -> None:
            self.ended()
            close()

        file.close = observed_close

    def failed(self, error: BaseException) -> None:
        """An exception came out of the application."""
        if not (self.request.left and isinstance(error, OSError)):
            self.request.fail(error)
            self._status = self._status or 500  # what servers answer for an application that does not
        self.ended()

    def closed(self) -> None:
        """The server lets go of an answer before its end: nobody takes the rest."""
        whole = 0 <= self._length <= self._sent
        if not whole and self._status not in _NO_BODY and self._environ.get("REQUEST_METHOD") != "HEAD":
            self.request.disconnected()
        self.ended()

    def ended(self) -> None:
        """The answer is over."""
        request, facts = self.request, self._facts
        try:
            attributes = facts.attributes(self._status)
            route = request.route or self._bottle_route()
            if route:
                route = _text(self._environ.get("SCRIPT_NAME", "")).rstrip("/") + route
                request.name_route(route, span_name(facts.name, route))
            if self._inference is not None:
                attributes.update(self._inference.facts(request, monotonic_ns()))
            if self._status >= 500:
                request.failed_with(str(self._status))
        except Exception as error:
            swallow("serving.wsgi.facts", error)
            attributes = {}
        request.end(attributes)

    def _bottle_route(self) -> str:
        rule = getattr(self._environ.get("bottle.route"), "rule", "")
        return rule if isinstance(rule, str) else ""


class Answer:
    """An answer that is iterated, piece by piece."""

    def __init__(self, answer: Any, exchange: Exchange) -> None:
        self._answer, self._exchange = answer, exchange
        self._next: Any = None
        self._over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._next is None:
                self._next = iter(self._answer).__next__
            body: bytes = self._next()
        except StopIteration:
            self._over = True
            self._exchange.ended()
            raise
        except BaseException as error:
            self._over = True
            self._exchange.failed(error)
            raise
        self._exchange.leaves(body)
        return body

    def close(self) -> None:
        """Close what the application returned, as the server must."""
        if not self._over:
            self._over = True
            self._exchange.closed()
        close = getattr(self._answer, "close", None)
        if close is not None:
            close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)


class Sized(Answer):
    """One whose number of pieces is known, from which servers tell its length; they may iterate it more than once."""

    def __len__(self) -> int:
        return len(self._answer)

    def __iter__(self) -> Iterator[bytes]:
        return Answer(self._answer, self._exchange)


class Asked:
    """The body of an inference request, as the application reads it."""

    def __init__(self, body: Any, inference: Inference) -> None:
        self._body, self._inference = body, inference

    def _seen(self, piece: bytes) -> bytes:
        try:
            self._inference.question.add(piece)
        except Exception as error:
            swallow("serving.wsgi.asked", error)
        return piece

    def read(self, *size: Any) -> bytes:
        return self._seen(self._body.read(*size))

    def readline(self, *size: Any) -> bytes:
        return self._seen(self._body.readline(*size))

    def readlines(self, *hint: Any) -> list[bytes]:
        return [self._seen(line) for line in self._body.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return (self._seen(line) for line in self._body)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._body, name)  # what the server's has not, this has not either
        if name in ("readinto", "readinto1"):
            return partial(self._filled, found)
        return partial(self._more, found) if name == "read1" else found

    def _more(self, read: Callable[..., bytes], *size: Any) -> bytes:
        return self._seen(read(*size))

    def _filled(self, read: Callable[[Any], int | None], buffer: Any) -> int | None:
        count = read(buffer)
        if count:
            self._seen(bytes(memoryview(buffer)[:count]))
        return count
