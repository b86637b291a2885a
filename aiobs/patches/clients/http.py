"""HTTP clients: httpx, httpx2, requests and aiohttp.

Where OpenTelemetry's instrumentation package for the library is installed (``pip install 'aiobs-sdk[clients]'``), it
makes a CLIENT span for each request. In any case the context of what runs goes with the request, at the library's
lowest place that still knows headers and host, so that redirects are judged hop by hop; afterwards the program's
headers are as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from aiobs.guard import swallow
from aiobs.patches.clients.instrumentation import Instrumentation
from aiobs.patches.outbound import Outbound, Undo
from aiobs.settings import Settings
from aiobs.wrapping import Live, replace


class _HttpPatch:
    """What the patches of HTTP clients share.

    Attributes:
        instrumentation: module and class of OpenTelemetry's package.
    """

    instrumentation = ("", "")

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._theirs = Instrumentation(*self.instrumentation)
        self._outbound = Outbound(())

    def install(self, settings: Settings) -> None:
        """Have the library's requests carry the context, and be spans where OpenTelemetry's package is there."""
        if self._undo:
            return
        # First ours, then theirs around it: ours sees the headers that theirs made.
        self._undo = self._carry()
        self._outbound = Outbound(settings.propagate_to, injected=self._theirs.switch_on())

    def remove(self) -> None:
        """Leave the library as it was."""
        self._theirs.switch_off()
        while self._undo:
            self._undo.pop()()

    def _carry(self) -> list[Callable[[], None]]:
        raise NotImplementedError

    def _adjust(self, headers: Any, host: str | None) -> Undo | None:
        try:
            return self._outbound.adjust(headers, host or "")
        except Exception as error:
            swallow("patches.clients.http", error)
            return None

    def _sync(self, original: Any, live: Live) -> Any:
        """Around ``send(request, …)`` of a transport."""

        def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            undo = adjust(request.headers, host_of(request)) if live else None
            try:
                return original(self, request, *args, **kwargs)
            finally:
                if undo is not None:
                    undo()

        adjust, host_of = self._adjust, self._host
        return send

    def _async(self, original: Any, live: Live) -> Any:
        async def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            undo = adjust(request.headers, host_of(request)) if live else None
            try:
                return await original(self, request, *args, **kwargs)
            finally:
                if undo is not None:
                    undo()

        adjust, host_of = self._adjust, self._host
        return send

    @staticmethod
    def _host(request: Any) -> str:
        host: str = request.url.host
        return host


class HttpxPatch(_HttpPatch):
    """For the distribution ``httpx``."""

    instrumentation = ("httpx", "HTTPXClientInstrumentor")
    library = "httpx"

    def _carry(self) -> list[Callable[[], None]]:
        module = import_module(self.library)
        return [
            replace(module.HTTPTransport, "handle_request", self._sync),
            replace(module.AsyncHTTPTransport, "handle_async_request", self._async),
        ]


class Httpx2Patch(HttpxPatch):
    """For the distribution ``httpx2``, the same code under another name."""

    instrumentation = ("httpx", "HTTPX2ClientInstrumentor")
    library = "httpx2"


class RequestsPatch(_HttpPatch):
    """For the distribution ``requests``."""

    instrumentation = ("requests", "RequestsInstrumentor")

    def _carry(self) -> list[Callable[[], None]]:
        return [replace(import_module("requests.adapters").HTTPAdapter, "send", self._sync)]

    @staticmethod
    def _host(request: Any) -> str:
        from urllib.parse import urlsplit

        return urlsplit(request.url or "").hostname or ""


class AiohttpPatch(_HttpPatch):
    """For the client of the distribution ``aiohttp``."""

    instrumentation = ("aiohttp_client", "AioHttpClientInstrumentor")

    def _carry(self) -> list[Callable[[], None]]:
        return [replace(import_module("aiohttp.client_reqrep").ClientRequest, "send", self._request)]

    def _request(self, original: Any, live: Live) -> Any:
        async def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            # The request is one hop's own, with headers of its own: nothing to put back.
            if live:
                adjust(self.headers, self.url.host)
            return await original(self, *args, **kwargs)

        adjust = self._adjust
        return send
