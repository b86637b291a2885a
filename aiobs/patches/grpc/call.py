"""One call that a gRPC server answers, whichever of gRPC's two servers and four kinds it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiobs import names
from aiobs.guard import guarded, swallow
from aiobs.recorder import start_span
from aiobs.serving.request import ServerRequest
from aiobs.telemetry import SERVER

OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED = 0, 1, 2, 4, 12
ERRORS = {
    UNKNOWN: "UNKNOWN",
    DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    UNIMPLEMENTED: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
}
"""Status codes that are a server's fault, as OpenTelemetry has them; the others tell the caller of its own."""
OTHER = "_OTHER"
"""Stands for methods that the server does not have, of which callers can think up any number."""
DEADLINE_SLACK_S = 0.02
"""How long before its deadline a call may be seen to end because of it: the two ends' clocks start apart."""


class RpcCall:
    """A call under way; made where its method begins to run, in the context it runs in.

    Attributes:
        received, sent: messages so far.
        left_s: seconds to the deadline when the caller was seen to leave; None while it is there.
    """

    __slots__ = ("context", "left_s", "received", "request", "sent")

    def __init__(self, method: str, metadata: Iterable[Any] | None, context: Any, received: int) -> None:
        self.context = context
        self.received = received
        self.sent = 0
        self.left_s: float | None = None
        given = list(metadata or ())

        def header(name: str) -> str | None:
            found = [value for key, value in given if key.lower() == name and isinstance(value, str)]
            return ",".join(found) if found else None

        service, _, name = method.strip("/").rpartition("/")
        peer = _address(context)
        attributes: dict[str, Any] = {names.RPC_SYSTEM: "grpc", names.RPC_SERVICE: service, names.RPC_METHOD: name}
        if peer:
            attributes[names.CLIENT_ADDRESS] = peer
        agent = header("user-agent")
        if agent:
            attributes[names.USER_AGENT] = agent
        self.request = ServerRequest.begin(method.strip("/"), attributes, header, peer)

    @classmethod
    def begin(cls, method: str, metadata: Iterable[Any] | None, context: Any, streaming: bool) -> RpcCall | None:
        """The call of `method`, whose request is `streaming` or has come; None where something of ours is wrong."""
        try:
            return cls(method, metadata, context, 0 if streaming else 1)
        except Exception as error:
            swallow("patches.grpc.begin", error)
            return None

    def send(self) -> None:
        """One message of a streamed answer leaves."""
        self.sent += 1
        self.request.chunk()

    @guarded("patches.grpc.left")
    def left(self) -> None:
        """The call is over for its caller: cancelled, or its deadline is over."""
        if self.left_s is None:
            remaining = self.context.time_remaining()
            self.left_s = float("inf") if remaining is None else remaining

    @guarded("patches.grpc.end")
    def end(self, error: BaseException | None = None, *, aborted: bool = False) -> None:
        """The method has ended, with `error` if one came out of it; `aborted`: gRPC's own way to end with a status."""
        request = self.request
        code = code_of(self.context)
        if self.left_s is not None:
            code = DEADLINE_EXCEEDED if self.left_s <= DEADLINE_SLACK_S else CANCELLED
            request.disconnected()
        elif error is not None and not aborted:
            code = code or UNKNOWN
            request.fail(error)
        if code in ERRORS and (error is None or aborted or self.left_s is not None):
            request.span.fail(ERRORS[code])
            request.engine.setdefault(names.ERROR_TYPE, ERRORS[code])
        if self.sent <= 1 and error is None:
            request.first()
        request.end({names.RPC_STATUS: code, names.RPC_RECEIVED: self.received, names.RPC_SENT: self.sent})


def unknown_method() -> None:
    """Record a call of a method that the server does not have."""
    attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: OTHER, names.RPC_STATUS: UNIMPLEMENTED}
    attributes[names.ERROR_TYPE] = ERRORS[UNIMPLEMENTED]
    span = start_span(OTHER, attributes, kind=SERVER)
    span.fail(ERRORS[UNIMPLEMENTED])
    span.end()


def code_of(context: Any) -> int:
    """The status that the method has set so far."""
    code = context.code()
    if code is None:
        return OK
    return int(code.value[0] if hasattr(code, "value") else code)


def _address(context: Any) -> str:
    """The caller's address: gRPC has it as ``ipv4:127.0.0.1:5000``, ``ipv6:[::1]:5000`` or ``unix:…``."""
    from urllib.parse import unquote

    scheme, _, rest = unquote(context.peer()).partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].strip("[]")
