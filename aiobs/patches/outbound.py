"""Which hosts the trace's context is sent to, and how it gets into the headers of an outgoing request.

A trace id tells a third party which of its requests belong together and how a company's systems call each other,
and a service that continues foreign traces mixes them with its own. So by default the context goes to hosts that
the public cannot reach, and to those that are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from fnmatch import fnmatchcase
from functools import lru_cache

from aiobs import recorder
from aiobs.propagation import BAGGAGE, CHAOS_BAGGAGE, TRACEPARENT, TRACESTATE, Context, inject, pass_chaos

ALL, NONE, PRIVATE = "all", "none", "private"
LOCAL_DOMAINS = (".localhost", ".local", ".internal", ".intranet", ".lan", ".home.arpa", ".svc", ".test")
"""Ends of names that the public's name service does not know."""

Undo = Callable[[], object]
Headers = MutableMapping[str, str]


class Outbound:
    """The setting AIOBS_PROPAGATE_TO, applied.

    Args:
        hosts: its parts.
        injected: whether an instrumentation that we installed puts the context into every request, so that
            where it must not go it has to be taken out.
    """

    def __init__(self, hosts: tuple[str, ...], *, injected: bool = False) -> None:
        self._patterns = tuple(host.lower() for host in hosts if host != NONE)
        self._injected = injected
        self.allows: Callable[[str], bool] = lru_cache(maxsize=1024)(self._allows)
        """Whether the context may go to a host, by its name or address without port."""

    def _allows(self, host: str) -> bool:
        name = host.lower().strip("[]").rstrip(".")
        for pattern in self._patterns:
            if pattern == ALL or (pattern == PRIVATE and is_private(name)) or fnmatchcase(name, pattern):
                return True
        return False

    def adjust(self, headers: Headers, host: str) -> Undo | None:
        """Make `headers` those that may go to `host`: with the context of what runs here, or without it.

        Headers that the program put there itself stay, but for the mark of test traffic, which stays at home.

        Returns:
            what makes `headers` as they were (a redirect copies them, to any host), or None: nothing was changed.
        """
        there = headers.get(TRACEPARENT)
        if there is None and not self.allows(host):
            return _unmarked(headers)
        if there is None:
            added = {name: value for name, value in self.carry(host).items() if name not in headers}
            headers.update(added)
            return (lambda: _take(headers, added)) if added else None
        if self.allows(host):
            return None
        context = recorder.current()
        ours = context is not None and there.split("-")[1:3] == [context.trace_id.hex(), context.span_id.hex()]
        if not self._injected or not ours:
            return _unmarked(headers)
        taken = _take(headers, (TRACEPARENT, TRACESTATE, BAGGAGE))
        return lambda: headers.update(taken)

    def carry(self, host: str, context: Context | None = None) -> dict[str, str]:
        """The headers that carry `context`, by default that of what runs here, to `host`; empty where it must not go.

        The mark of test traffic goes along, and nothing else of the baggage.
        """
        headers: dict[str, str] = {}
        if self.allows(host):
            context = context or recorder.current()
            if context is not None:
                inject(context, headers)
            pass_chaos(headers, host, (host,))
        return headers


def _unmarked(headers: Headers) -> Undo | None:
    """Take the mark of test traffic out of baggage that somebody else has put there, for a host out of its scope."""
    whole = headers.get(BAGGAGE)
    if whole is None or CHAOS_BAGGAGE not in whole:
        return None
    pass_chaos(headers, "", ())
    return lambda: headers.update({BAGGAGE: whole})


def _take(headers: Headers, wanted: Iterable[str]) -> dict[str, str]:
    """Take headers out and return those that were there."""
    return {name: headers.pop(name) for name in wanted if name in headers}


def is_private(host: str) -> bool:
    """Whether `host`, a name or address in lower case, is one that the public cannot reach; names are not looked up."""
    from ipaddress import ip_address

    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return "." not in host or host.endswith(LOCAL_DOMAINS)
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    return address.is_private or address.is_loopback or address.is_link_local
