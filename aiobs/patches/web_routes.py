"""Which route of a framework a request took, where the framework does not say so in passing: Flask, Django, falcon.

They name it to the request that is being answered, whatever server that came through. The exceptions that Flask and
Django turn into answers are named as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from aiobs.guard import guarded, swallow
from aiobs.serving.request import current_request
from aiobs.settings import Settings
from aiobs.wrapping import Live, replace


class _RoutePatch:
    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def install(self, settings: Settings) -> None:  # noqa: ARG002
        """Have the framework name its routes."""
        if not self._undo:
            self._install()

    def _install(self) -> None:
        raise NotImplementedError

    def remove(self) -> None:
        """Leave the framework as it was."""
        while self._undo:
            self._undo.pop()()


class FlaskPatch(_RoutePatch):
    """For the distribution ``Flask``."""

    def _install(self) -> None:
        flask = import_module("flask.app").Flask
        self._undo += [replace(flask, "dispatch_request", _dispatch), replace(flask, "handle_exception", _handle)]


def _dispatch(original: Any, live: Live) -> Any:
    def dispatch_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        if live:
            try:
                answered = current_request()
                rule = import_module("flask").request.url_rule if answered is not None else None
                if answered is not None and rule is not None:
                    answered.route = str(rule.rule)
            except Exception as error:
                swallow("patches.flask", error)
        return original(self, *args, **kwargs)

    return dispatch_request


def _handle(original: Any, live: Live) -> Any:
    def handle_exception(self: Any, *args: Any, **kwargs: Any) -> Any:
        if live:
            _note(sys.exc_info()[1])
        return original(self, *args, **kwargs)

    return handle_exception


class DjangoPatch(_RoutePatch):
    """For the distribution ``Django``."""

    def _install(self) -> None:
        handler = import_module("django.core.handlers.base").BaseHandler
        signal = import_module("django.core.signals").got_request_exception
        signal.connect(_raised, weak=False)
        self._undo += [lambda: signal.disconnect(_raised), replace(handler, "resolve_request", _resolve)]


def _resolve(original: Any, live: Live) -> Any:
    def resolve_request(self: Any, request: Any) -> Any:
        match = original(self, request)
        if live:
            try:
                answered, route = current_request(), getattr(match, "route", None)
                if answered is not None and isinstance(route, str):
                    answered.route = "/" + route.lstrip("/")
            except Exception as error:
                swallow("patches.django", error)
        return match

    return resolve_request


def _raised(**_: Any) -> None:
    _note(sys.exc_info()[1])


@guarded("patches.web_routes")
def _note(error: BaseException | None) -> None:
    answered = current_request()
    if answered is not None and error is not None:
        answered.fail(error)


class FalconPatch(_RoutePatch):
    """For the distribution ``falcon``."""

    def _install(self) -> None:
        self._undo.append(replace(import_module("falcon.app").App, "_get_responder", _responder))


def _responder(original: Any, live: Live) -> Any:
    def _get_responder(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        if live:
            try:
                answered = current_request()
                if answered is not None and isinstance(found[3], str):
                    answered.route = found[3]
            except Exception as error:
                swallow("patches.falcon", error)
        return found

    return _get_responder
