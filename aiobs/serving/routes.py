"""Which route of a framework answered, read from an ASGI scope after the fact.

Frameworks leave their traces in the scope: Starlette and FastAPI the route and, for mounted applications, the path
they are mounted under; Litestar the template. Others say it by setting :attr:`ServerRequest.route`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROUTE_LIMIT = 256


def route_of(scope: Mapping[str, Any]) -> str:
    """The whole template of the route, with the path it is mounted under, or "" where none is known."""
    template = scope.get("path_template")  # Litestar
    if isinstance(template, str):
        return template[:ROUTE_LIMIT]
    route = scope.get("route")
    if route is None:
        route = _searched(scope)
    path = _path_of(route, scope)
    if path is None:
        return ""
    return (_prefix(scope) + path)[:ROUTE_LIMIT]


def _path_of(route: Any, scope: Mapping[str, Any]) -> str | None:
    if route is None:
        return None
    # FastAPI's included routers add their prefix here, not to the route.
    fastapi = scope.get("fastapi")
    if isinstance(fastapi, dict):
        effective = fastapi.get("effective_route_context")
        if getattr(effective, "original_route", None) is route:
            route = getattr(effective, "starlette_route", None) or effective
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    if not isinstance(path, str):
        return None
    # A mounted application that is no router: what it is mounted under is in the scope's root path by now.
    return "/{path}" if _is_mount(route) else path


def _is_mount(route: Any) -> bool:
    return hasattr(route, "app") and not hasattr(route, "endpoint")


def _prefix(scope: Mapping[str, Any]) -> str:
    """What the application is mounted under, with parameters in place of their values."""
    root: str = scope.get("root_path") or ""
    params = scope.get("path_params") or {}
    if not root or not params:
        return root.rstrip("/")
    names: dict[str, str] = {str(value): f"{{{name}}}" for name, value in params.items()}
    return "/".join(names.get(part, part) for part in root.rstrip("/").split("/"))


def _searched(scope: Mapping[str, Any]) -> Any:
    """The route by its endpoint, where the framework (an older Starlette) only left that."""
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return None
    for route in getattr(scope.get("app"), "routes", ()) or ():
        if getattr(route, "endpoint", None) is endpoint:
            return route
    return None
