"""The openai client: a CLIENT span for each call of a model, and the trace's context in its request.

All of the client's ways to call a model (chat, completions, responses, embeddings; sync, async; parsed, raw and
streamed; ``.stream()``, ``.parse()``) end in one method, ``request``. What it returns goes back to the caller as it
is; of a stream, the iterator inside is tapped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

from aiobs import names
from aiobs.guard import swallow
from aiobs.imports import when_imported
from aiobs.patches.openai.answers import get, provider_of
from aiobs.patches.openai.call import ModelCall
from aiobs.patches.openai.streams import CALL, call_of, tap
from aiobs.patches.outbound import Outbound
from aiobs.propagation import TRACEPARENT, Context
from aiobs.recorder import state
from aiobs.serving.openai_bodies import request_facts
from aiobs.serving.openai_routes import OPERATIONS
from aiobs.settings import Settings
from aiobs.wrapping import Live, replace

READ_LIMIT = 1 << 18
"""Longest raw answer, in bytes, that is parsed a second time for its token counts."""
_RETRIES = "x-stainless-retry-count"


class OpenAIPatch:
    """For the distribution ``openai``, 1.x and later."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._outbound = Outbound(())

    def install(self, settings: Settings) -> None:
        """Stand before the clients' ``request``, and see their streams end."""
        if self._undo:
            return
        self._outbound = Outbound(settings.propagate_to)
        clients = import_module("openai._base_client")
        streams = import_module("openai._streaming")
        responses = import_module("openai._response")
        self._undo.append(replace(clients.SyncAPIClient, "request", self._request))
        self._undo.append(replace(clients.AsyncAPIClient, "request", self._async_request))
        for kind in (streams.Stream, streams.AsyncStream):
            self._undo.append(replace(kind, "__init__", _opened))
        self._undo.append(replace(streams.Stream, "close", _closed))
        self._undo.append(replace(streams.AsyncStream, "close", _async_closed))
        self._undo.append(replace(responses.APIResponse, "close", _closed))
        self._undo.append(replace(responses.AsyncAPIResponse, "close", _async_closed))
        for module, name in (
            ("openai.lib.streaming.chat._completions", "ChatCompletionStream"),
            ("openai.lib.streaming.responses._responses", "ResponseStream"),
        ):
            self._undo.append(when_imported(module, self._higher(name)))

    def remove(self) -> None:
        """Leave the client as it was; calls under way go on unseen."""
        while self._undo:
            self._undo.pop()()

    def _higher(self, name: str) -> Callable[[ModuleType], None]:
        """For the streams of ``.stream()``, which close the connection past the stream they read."""

        def found(module: ModuleType) -> None:
            self._undo.append(replace(getattr(module, name), "close", _closed))
            self._undo.append(replace(getattr(module, "Async" + name), "close", _async_closed))

        return found

    # -- one call ------------------------------------------------------------------------------------------
    def _request(self, original: Any, live: Live) -> Any:
        def request(self: Any, *args: Any, **kwargs: Any) -> Any:
            call = begin(self, args, kwargs) if live else None
            if call is None:
                return original(self, *args, **kwargs)
            with call.sending():
                result = original(self, *args, **kwargs)
            _answered(call, result)
            return result

        begin = self._begin
        return request

    def _async_request(self, original: Any, live: Live) -> Any:
        async def request(self: Any, *args: Any, **kwargs: Any) -> Any:
            call = begin(self, args, kwargs) if live else None
            if call is None:
                return await original(self, *args, **kwargs)
            with call.sending():
                result = await original(self, *args, **kwargs)
            _answered(call, result)
            return result

        begin = self._begin
        return request

    def _begin(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall | None:
        """The call that this request makes, or None where it calls no model."""
        if state.flight is None and state.sleeping is None:
            return None
        try:
            options = kwargs["options"] if "options" in kwargs else args[1]
            if options.method.lower() != "post":
                return None
            path = str(options.url).partition("?")[0].rstrip("/")
            operation = next((OPERATIONS[end] for end in OPERATIONS if path.endswith(end)), None)
            if operation is None:
                return None
            body = {**_object(options.json_data), **_object(getattr(options, "extra_json", None))}
            model = body.get("model")
            host, port, provider = _server(
                client.base_url if path.startswith("/") else client._prepare_url(options.url)
            )
            attributes: dict[str, Any] = {
                names.GEN_AI_OPERATION: operation,
                names.GEN_AI_PROVIDER: provider,
                names.SERVER_ADDRESS: host,
                names.SERVER_PORT: port,
            }
            if isinstance(model, str):
                attributes[names.GEN_AI_REQUEST_MODEL] = model
            attributes.update(request_facts(body))
            call = ModelCall(f"{operation} {model}" if isinstance(model, str) else operation, attributes)
            self._carry(client, options, host, call.span.context)
        except Exception as error:
            swallow("patches.openai.begin", error)
            return None
        return call

    def _carry(self, client: Any, options: Any, host: str, context: Context) -> None:
        """Put the context into the request's headers, unless the program did so."""
        given = options.headers if isinstance(options.headers, dict) else {}
        there = {str(name).lower() for name in (*given, *(getattr(client, "_custom_headers", None) or ()))}
        if TRACEPARENT not in there:
            carried = self._outbound.carry(host, context)
            if carried:
                options.headers = {**given, **carried}


@lru_cache(maxsize=256)
def _server(url: Any) -> tuple[str, int, str]:
    """Host, port and provider of the client's base URL."""
    return url.host, url.port or (443 if url.scheme == "https" else 80), provider_of(url.host)


def _answered(call: ModelCall, result: Any) -> None:
    """Look at what the caller gets: an object, a stream, or a raw answer that may become either."""
    try:
        response: Any = get(result, "http_response") or get(result, "response")
        request = getattr(response, "request", None)
        if response is None or request is None:
            return call.answered(result)
        retries = request.headers.get(_RETRIES, "0")
        if retries.isdigit() and int(retries):
            call.span.set(names.HTTP_RESENDS, int(retries))
        call.span.set(names.HTTP_STATUS, response.status_code)
        if hasattr(result, "_iterator"):
            tap(result, call)
        elif getattr(response, "is_closed", True) and not getattr(result, "_is_sse_stream", False):
            call.answered(_parsed(response))
        else:
            response.extensions[CALL] = call  # it goes on with the stream that is made of it, or ends when it is closed
    except Exception as error:
        swallow("patches.openai.answered", error)
    return None


def _parsed(response: Any) -> Any:
    content = response.content
    if len(content) > READ_LIMIT or "json" not in response.headers.get("content-type", ""):
        return None
    try:
        return json.loads(content)
    except ValueError:
        return None


def _opened(original: Any, live: Live) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if live:
            try:
                call = self.response.extensions.pop(CALL, None)
                if call is not None:
                    tap(self, call)
            except Exception as error:
                swallow("patches.openai.opened", error)

    return __init__


def _closed(original: Any, live: Live) -> Any:
    def close(self: Any) -> Any:
        try:
            return original(self)
        finally:
            if live:
                _end(self)

    return close


def _async_closed(original: Any, live: Live) -> Any:
    async def close(self: Any) -> Any:
        try:
            return await original(self)
        finally:
            if live:
                _end(self)

    return close


def _end(closed: Any) -> None:
    try:
        call = call_of(closed)
        if call is None:
            return
        response = getattr(closed, "http_response", None)
        if response is None or not response.is_stream_consumed:
            call.streamed(whole=False)
        else:
            call.answered(_parsed(response) if hasattr(response, "_content") else None)
    except Exception as error:
        swallow("patches.openai.closed", error)


def _object(it: Any) -> dict[str, Any]:
    return it if isinstance(it, dict) else {}
