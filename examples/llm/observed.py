"""What the rest of the server tells aiobs: the only file that knows of it. Without aiobs installed nothing is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

try:
    import aiobs
    from aiobs import names, propagation, serving
    from aiobs.recorder import start_span
    from aiobs.telemetry import CLIENT
except ModuleNotFoundError:
    THERE = False
else:
    THERE = True


class Nobody:
    """Stands in for what aiobs would give: takes every call, says nothing, may be used with ``with``."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: self

    def __enter__(self) -> Nobody:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def engine_request(model: str, operation: str, parameters: Mapping[str, Any], prompt_tokens: int) -> Any:
    """The request that is being answered, as it goes through the engine."""
    if not THERE:
        return Nobody()
    return serving.EngineRequest(model, operation, parameters, prompt_tokens, provider="serve_llm")


def engine_steps(engine: str, **rules: Any) -> Any:
    """The steps of an engine."""
    return Nobody() if not THERE else serving.EngineSteps(engine, **rules)


def tenant(name: str) -> None:
    """On whose behalf the request is made that is being answered."""
    request = serving.current_request() if THERE else None
    if request is not None and name:
        request.span.set(names.TENANT, name[:64])


def replica(name: str) -> None:
    """Which replica is asked to answer it; the last one said counts."""
    request = serving.current_request() if THERE else None
    if request is not None:
        request.span.set(names.REPLICA, name)


def failed(error: BaseException) -> None:
    """The answer that is on its way cannot be completed, though it began well."""
    request = serving.current_request() if THERE else None
    if request is not None:
        request.fail(error)


def trace_headers() -> dict[str, str]:
    """Headers that let the server that is called go on with this trace."""
    headers: dict[str, str] = {}
    here = aiobs.current() if THERE else None
    if here is not None:
        propagation.inject(here, headers)
    return headers


class Asked:
    """A request as its caller sees it: a CLIENT span "ask", whatever library sends it. Use it with ``with``.

    It belongs to the tenant at once, and to a replica when the answer says which one made it: a request that nobody
    answered belongs to none.
    """

    def __init__(self, tenant: str) -> None:
        self._span: Any = Nobody()
        if THERE:
            attributes = {names.TENANT: tenant} if tenant else {}
            self._span = start_span("ask", attributes, kind=CLIENT, root=True, current=True)

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # One that is given up because the load ends has not failed.
        given_up = kind is not None and issubclass(kind, asyncio.CancelledError)
        self._span.__exit__(*((None, None, None) if given_up else (kind, *rest)))

    def answered_by(self, replica: str) -> None:
        """The router has said who answers."""
        if THERE and replica:
            self._span.set(names.REPLICA, replica)

    def first_token(self, after_s: float) -> None:
        """The first token came so long after the request was due."""
        if THERE:
            self._span.set(names.TIME_TO_FIRST_TOKEN, after_s)

    def failed(self, why: str) -> None:
        """The answer is not whole."""
        self._span.fail(why)
