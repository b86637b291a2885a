"""What the rest of the server tells aiobs: the only file that knows of it. Without aiobs installed nothing is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    import aiobs
    from aiobs import names, propagation, serving
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
