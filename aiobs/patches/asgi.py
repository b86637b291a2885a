"""The ASGI patches: every application that uvicorn or hypercorn serves is recorded, once, where the server loads it.

Starlette's background tasks run inside the request, after its answer: they are spans of their own. Quart names its
routes; Starlette, FastAPI and Litestar leave them in the scope.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any
from weakref import WeakSet

from aiobs import names
from aiobs.guard import swallow
from aiobs.recorder import span
from aiobs.serving.asgi import observed
from aiobs.serving.request import current_request
from aiobs.settings import Settings
from aiobs.wrapping import Live, replace

Undo = Callable[[], None]


class _Replacement:
    """A patch that replaces attributes of classes."""

    def __init__(self) -> None:
        self._undo: list[Undo] = []

    def install(self, settings: Settings) -> None:  # noqa: ARG002
        """Record from now on."""
        if not self._undo:
            self._undo = self._place()

    def remove(self) -> None:
        """Leave the library as it was."""
        while self._undo:
            self._undo.pop()()

    def _place(self) -> list[Undo]:
        raise NotImplementedError


class UvicornPatch(_Replacement):
    """uvicorn: its configuration loads the application, with any of its own middleware around it."""

    def __init__(self) -> None:
        super().__init__()
        self._loaded: WeakSet[Any] = WeakSet()

    def _place(self) -> list[Undo]:
        return [replace(import_module("uvicorn.config").Config, "load", self._load)]

    def remove(self) -> None:
        """Give every configuration its application back; requests that are being answered are finished."""
        super().remove()
        for config in list(self._loaded):
            application = getattr(config, "loaded_app", None)
            config.loaded_app = getattr(application, "observed_app", application)
        self._loaded.clear()

    def _load(self, original: Any, live: Live) -> Any:
        def load(config: Any) -> None:
            original(config)
            if not live:
                return
            try:
                application = config.loaded_app
                if not hasattr(application, "observed_app"):
                    config.loaded_app = observed(application, live)
                    self._loaded.add(config)
            except Exception as error:
                swallow("patches.asgi.load", error)

        return load


class HypercornPatch(_Replacement):
    """hypercorn: all ASGI applications, and no others, are called through one wrapper of its own."""

    def _place(self) -> list[Undo]:
        return [replace(import_module("hypercorn.app_wrappers").ASGIWrapper, "__call__", _call_wrapper)]


def _call_wrapper(original: Any, live: Live) -> Any:
    def __call__(wrapper: Any, scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any) -> Any:
        def application(scope: Any, receive: Any, send: Any) -> Any:
            return original(wrapper, scope, receive, send, sync_spawn, call_soon)

        return observed(application, live)(scope, receive, send)

    return __call__


class BackgroundPatch(_Replacement):
    """Starlette, and so FastAPI: what a request leaves to be done after its answer."""

    def _place(self) -> list[Undo]:
        return [replace(import_module("starlette.background").BackgroundTask, "__call__", _call_task)]


def _call_task(original: Any, live: Live) -> Any:
    async def __call__(task: Any) -> None:
        request = current_request()
        # BackgroundTasks is a BackgroundTask too, without a function, and calls those it holds.
        if not live or request is None or "func" not in vars(task):
            await original(task)
            return
        function = task.func
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
        try:
            with span(names.SPAN_BACKGROUND, **{names.CODE_FUNCTION_NAME: name}):
                await original(task)
        except BaseException as error:
            request.noted(error)
            raise

    return __call__


class QuartPatch(_Replacement):
    """Quart: the route of a request or connection is known where it is dispatched."""

    def _place(self) -> list[Undo]:
        quart = import_module("quart.app")
        return [
            replace(quart.Quart, "dispatch_request", _dispatching("request")),
            replace(quart.Quart, "dispatch_websocket", _dispatching("websocket")),
        ]


def _dispatching(kind: str) -> Any:
    def make(original: Any, live: Live) -> Any:
        def dispatch(app: Any, context: Any = None, *args: Any, **kwargs: Any) -> Any:
            if live:
                try:
                    request = current_request()
                    asked = getattr(context, kind, None) or getattr(import_module("quart"), kind)
                    rule = asked.url_rule
                    if request is not None and rule is not None:
                        request.route = str(rule.rule)
                except Exception as error:
                    swallow("patches.asgi.quart", error)
            return original(app, context, *args, **kwargs)

        return dispatch

    return make
