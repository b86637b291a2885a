"""Whose trace a request belongs to: what is made of the context a caller sends.

A ``traceparent`` from the public may name any trace, set any flag and be sent by the million; obeying it blindly
lets strangers write into our traces. Baggage is not read at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from aiobs.propagation import STATE_LIMIT, TRACEPARENT, TRACESTATE, Context, extract

PARENT_LIMIT = 256
"""Longest traceparent looked at; version 00 has 55 characters, later ones may have more."""
STATE_LOOKED_AT = 8 * STATE_LIMIT
"""Longest tracestate looked at; of that, what fits the limit is kept."""
FORWARDED_LIMIT = 2048
FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip")


class Caller(NamedTuple):
    """What was made of a caller's context: `parent` to continue, `link` to point to, or neither."""

    parent: Context | None
    link: Context | None
    verdict: str
    """continued, linked, ignored; "" where the caller sent no context."""


NOBODY = Caller(None, None, "")


def caller_of(headers: Callable[[str], str | None], peer: str, policy: str) -> Caller:
    """Decide by `policy` (the setting AIOBS_SERVING_CALLERS) about a request from the address `peer`.

    Args:
        headers: gives a header by its lower-case name; several of one name joined by commas.
        peer: the address of the connection's other end, "" for a unix socket.
    """
    parent = headers(TRACEPARENT)
    if not parent:
        return NOBODY
    if policy == "ignore":
        return Caller(None, None, "ignored")
    if len(parent) > PARENT_LIMIT:
        return NOBODY
    state = headers(TRACESTATE) or ""
    context = extract({TRACEPARENT: parent, TRACESTATE: state if len(state) <= STATE_LOOKED_AT else ""})
    if context is None:
        return NOBODY
    if policy == "trust" or (policy == "auto" and is_near(headers, peer)):
        return Caller(context, None, "continued")
    return Caller(None, context, "linked")


def is_near(headers: Callable[[str], str | None], peer: str) -> bool:
    """Whether `peer`, and everybody it forwards for, has a loopback, private or unix-socket address."""
    if not _is_private(peer):
        return False
    for name in FORWARDED:
        value = headers(name)
        if value and not (len(value) <= FORWARDED_LIMIT and all(map(_is_private, _addresses(name, value)))):
            return False
    return True


def _addresses(header: str, value: str) -> list[str]:
    """The addresses a forwarding header names."""
    parts = value.split(",")
    if header == "forwarded":
        pairs = (pair.partition("=") for part in parts for pair in part.split(";"))
        parts = [address for key, _, address in pairs if key.strip().lower() == "for"]
    return [part.strip().strip('"') for part in parts]


@lru_cache(maxsize=1024)
def _is_private(address: str) -> bool:
    """Whether `address`, with or without port, is one that the public has not; what is no address is the public."""
    if not address:
        return True  # a unix socket
    from ipaddress import IPv6Address, ip_address

    bare = address
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        found = ip_address(bare.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_private or found.is_loopback or found.is_link_local
