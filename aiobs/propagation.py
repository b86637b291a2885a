"""W3C Trace Context in and out, with the standard library alone.

``traceparent: 00-<32 hex trace id>-<16 hex parent id>-<2 hex flags>`` and ``tracestate``, as HTTP headers or as
the environment variables ``TRACEPARENT`` and ``TRACESTATE``. What does not follow the specification counts as
absent: a bad header must never stop or misplace anything.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping, MutableMapping
from contextvars import ContextVar, Token
from dataclasses import dataclass

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
CHAOS_BAGGAGE = "aiobs.chaos"
"""Baggage entry that marks a request as test traffic."""
STATE_LIMIT = 512
"""Longest tracestate passed on, in characters; the specification asks for at least this much."""
STATE_MEMBERS = 32

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", re.ASCII
)
_NO_TRACE = bytes(16)
_NO_SPAN = bytes(8)


@dataclass(frozen=True, slots=True)
class Context:
    """Which span something belongs to.

    Attributes:
        trace_id, span_id: 16 and 8 bytes, never all zero.
        sampled: whether the trace is being recorded.
        remote: the span lives in another process.
        in_step: the span belongs to the trace of a training step, kept or left out together with it.
        trace_state: W3C ``tracestate``, "" where there is none.
    """

    trace_id: bytes
    span_id: bytes
    sampled: bool = True
    remote: bool = False
    in_step: bool = False
    trace_state: str = ""


def extract(carrier: Mapping[str, str]) -> Context | None:
    """The remote context in `carrier` (headers, names in any case), or None without a valid one."""
    parent = state = ""
    for key, value in carrier.items():
        name = key.lower()
        if name == TRACEPARENT:
            parent = value
        elif name == TRACESTATE:
            state = value
    match = _PARENT.fullmatch(parent.strip(" \t"))
    if match is None:
        return None
    version, trace, span, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    trace_id, span_id = bytes.fromhex(trace), bytes.fromhex(span)
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Context(trace_id, span_id, bool(int(flags, 16) & 1), remote=True, trace_state=_bounded(state))


def inject(context: Context, carrier: MutableMapping[str, str]) -> None:
    """Write `context` into `carrier` as ``traceparent`` and, where there is one, ``tracestate``."""
    carrier[TRACEPARENT] = f"00-{context.trace_id.hex()}-{context.span_id.hex()}-{'01' if context.sampled else '00'}"
    if context.trace_state:
        carrier[TRACESTATE] = context.trace_state


def from_environment(environment: Mapping[str, str] | None = None) -> Context | None:
    """The context that the parent process left in ``TRACEPARENT`` and ``TRACESTATE``, or None."""
    env = os.environ if environment is None else environment
    return extract({TRACEPARENT: env.get("TRACEPARENT", ""), TRACESTATE: env.get("TRACESTATE", "")})


def child_environment(context: Context | None, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of `environment` (``os.environ`` by default) for a subprocess that shall continue `context`.

    Without a context the copy carries none either, so that a child never joins a trace that has ended.
    """
    child = dict(os.environ if environment is None else environment)
    child.pop("TRACEPARENT", None)
    child.pop("TRACESTATE", None)
    if context is not None:
        headers: dict[str, str] = {}
        inject(context, headers)
        child.update((name.upper(), value) for name, value in headers.items())
    return child


def _bounded(state: str) -> str:
    """The leading members of a tracestate that fit the limits; "" where a member is malformed or repeated."""
    kept: list[str] = []
    keys: set[str] = set()
    length = -1
    for member in (part.strip(" \t") for part in state.split(",")):
        if not member:
            continue
        key = member.partition("=")[0]
        if _MEMBER.fullmatch(member) is None or key in keys:
            return ""
        keys.add(key)
        length += len(member) + 1
        if length > STATE_LIMIT or len(kept) == STATE_MEMBERS:
            break
        kept.append(member)
    return ",".join(kept)


# -- the mark of test traffic --------------------------------------------------------------------------------
_chaos: ContextVar[str] = ContextVar("aiobs_chaos", default="")


def enter_chaos(carrier: Mapping[str, str]) -> Token[str]:
    """Take the chaos entry of a request's ``baggage`` header into this context; :func:`leave_chaos` ends that.

    What the entry is worth is judged where a fault is scoped by it; here it is only carried.
    """
    header = next((value for key, value in carrier.items() if key.lower() == BAGGAGE), "")
    return _chaos.set(next((_value(it) for it in header.split(",") if _is_chaos(it)), ""))


def leave_chaos(token: Token[str]) -> None:
    """The request is over."""
    _chaos.reset(token)


def carried_chaos() -> str:
    """The chaos entry of what runs now, also where OpenTelemetry's instrumentation took it in; "" for none."""
    entry = _chaos.get()
    if entry or "opentelemetry.baggage" not in sys.modules:
        return entry
    return str(sys.modules["opentelemetry.baggage"].get_baggage(CHAOS_BAGGAGE) or "")


def pass_chaos(carrier: MutableMapping[str, str], host: str, scope: Collection[str]) -> None:
    """Before `carrier` goes to `host`: with the chaos entry where `scope` names that host, without it elsewhere.

    Other baggage stays. Call it last, after everything that writes ``baggage``.

    Args:
        host: name without port. `scope`: names, or ``.example.test`` for everything below.
    """
    name = next((key for key in carrier if key.lower() == BAGGAGE), BAGGAGE)
    members = [it.strip() for it in carrier.get(name, "").split(",") if it.strip() and not _is_chaos(it)]
    entry = carried_chaos()
    plain = host.lower().rstrip(".")
    if entry and any(plain == it.lower() or (it.startswith(".") and plain.endswith(it.lower())) for it in scope):
        members.append(f"{CHAOS_BAGGAGE}={entry}")
    if members:
        carrier[name] = ",".join(members)
    else:
        carrier.pop(name, None)


def _is_chaos(member: str) -> bool:
    return member.partition("=")[0].strip() == CHAOS_BAGGAGE


def _value(member: str) -> str:
    return member.partition("=")[2].partition(";")[0].strip()
