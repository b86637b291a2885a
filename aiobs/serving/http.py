"""What an HTTP request says about itself, as attributes of its span."""

from __future__ import annotations

from typing import Any

from aiobs import names
from aiobs.serving.routes import route_of
from aiobs.serving.secrets import shown_path, shown_query

METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "QUERY"})
EARLY_PATH = 80
"""Characters of the path that the mark of an open request has room for."""
VALUE_LIMIT = 256
HEADERS = frozenset(
    {b"traceparent", b"tracestate", b"x-forwarded-for", b"forwarded", b"x-real-ip", b"user-agent", b"content-type",
     b"content-encoding", b"content-length", b"baggage"}
)  # fmt: skip
"""The headers that are looked at; of these only user-agent and content-length are recorded. Of baggage only the mark
of test traffic is."""


def headers_in(pairs: Any) -> dict[str, str]:
    """The headers that are looked at, of an ASGI list; those of one name joined by commas."""
    found: dict[str, str] = {}
    for key, value in pairs:
        name = key if key.islower() else key.lower()
        if name in HEADERS:
            name = name.decode("latin-1")
            text = value.decode("latin-1")
            found[name] = f"{found[name]},{text}" if name in found else text
    return found


def span_name(method: str, route: str) -> str:
    """Name of a server's span: of low cardinality whatever the caller sends."""
    return f"{method} {route}" if route else method


def method_of(given: str) -> tuple[str, str]:
    """The method as attribute and as in the span's name."""
    return (given, given) if given in METHODS else ("_OTHER", "HTTP")


class HttpFacts:
    """An ASGI scope of kind http or websocket.

    Attributes:
        name: of the span, while no route is known.
        peer: address of the connection's other end, "" for a unix socket.
        headers: those that are looked at, by lower-case name.
    """

    __slots__ = ("_given", "_method", "_path", "_scope", "headers", "name", "peer")

    def __init__(self, scope: Any) -> None:
        self._scope = scope
        self.headers = headers_in(scope.get("headers") or ())
        self._given: str = scope.get("method") or "GET"
        self._method, self.name = method_of(self._given)
        client = scope.get("client")
        self.peer = str(client[0]) if client else ""
        # Applications may change the scope's.
        self._path = shown_path(scope.get("path") or "")

    def early(self) -> dict[str, Any]:
        """What is worth knowing of a request whose process is killed."""
        return {names.HTTP_METHOD: self._method, names.URL_PATH: self._path[:EARLY_PATH]}

    def attributes(self, status: int) -> dict[str, Any]:
        """What is known at the end; `status` 0: none was sent."""
        scope = self._scope
        facts: dict[str, Any] = {names.URL_PATH: self._path, names.URL_SCHEME: str(scope.get("scheme") or "http")}
        if self._given not in METHODS:
            facts[names.HTTP_METHOD_ORIGINAL] = self._given[:VALUE_LIMIT]
        query = scope.get("query_string")
        if query:
            facts[names.URL_QUERY] = shown_query(query.decode("latin-1"))
        if status:
            facts[names.HTTP_STATUS] = status
        server = scope.get("server")
        if server:
            facts[names.SERVER_ADDRESS] = str(server[0])
            if server[1] is not None:
                facts[names.SERVER_PORT] = int(server[1])
        client = scope.get("client")  # a server's own proxy support may have changed it since
        if client:
            facts[names.CLIENT_ADDRESS] = str(client[0])[:VALUE_LIMIT]
        version = scope.get("http_version")
        if version:
            facts[names.PROTOCOL_VERSION] = str(version)
        agent = self.headers.get("user-agent")
        if agent:
            facts[names.USER_AGENT] = shown_path(agent)[:VALUE_LIMIT]
        size = self.headers.get("content-length", "")
        if size.isdigit() and len(size) < 16:
            facts[names.HTTP_REQUEST_SIZE] = int(size)
        return facts

    def route(self) -> str:
        """Template of the route that answered, "" where the framework does not tell."""
        return route_of(self._scope)
