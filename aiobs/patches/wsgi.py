"""WSGI servers: gunicorn, Werkzeug (``flask run``), waitress, cheroot, gevent and wsgiref.

Each is patched where it takes its application, so that any framework's is recorded; that of a running server stays
in place when the patch is removed, and records nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from aiobs.guard import swallow
from aiobs.serving.wsgi import observed
from aiobs.settings import Settings
from aiobs.wrapping import Live, MakeWrapper, replace


class _ServerPatch:
    """What the patches of servers share: one method of one class is replaced.

    Attributes:
        place: module and class; `method`: of that class.
        attribute: where the object keeps its application once that method has run.
    """

    place = ("", "")
    method = "__init__"
    attribute = "application"

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def install(self, settings: Settings) -> None:  # noqa: ARG002
        """Have servers that start from now on record."""
        if not self._undo:
            module, name = self.place
            self._undo.append(replace(getattr(import_module(module), name), self.method, self._make()))

    def remove(self) -> None:
        """Leave the server as it was."""
        while self._undo:
            self._undo.pop()()

    def _make(self) -> MakeWrapper:
        return self._taking

    def wants(self, server: Any) -> bool:  # noqa: ARG002
        """Whether the application that `server` has taken is a WSGI one."""
        return True

    def _taking(self, original: Any, live: Live) -> Any:
        def take(server: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(server, *args, **kwargs)
            if live:
                try:
                    if wants(server):
                        setattr(server, attribute, observed(getattr(server, attribute), live))
                except Exception as error:
                    swallow("patches.wsgi", error)
            return result

        wants, attribute = self.wants, self.attribute
        return take


class GunicornPatch(_ServerPatch):
    """For gunicorn's own workers; those that come with ASGI servers are theirs."""

    place = ("gunicorn.workers.base", "Worker")
    method, attribute = "load_wsgi", "wsgi"
    workers = frozenset(f"gunicorn.workers.{name}" for name in ("sync", "gthread", "base_async", "gtornado"))

    def wants(self, server: Any) -> bool:
        return any(kind.__module__ in self.workers for kind in type(server).__mro__)


class WerkzeugPatch(_ServerPatch):
    """For the development server of Flask and others."""

    place = ("werkzeug.serving", "BaseWSGIServer")
    attribute = "app"


class WaitressPatch(_ServerPatch):
    """For the distribution ``waitress``."""

    place = ("waitress.server", "BaseWSGIServer")


class CherootPatch(_ServerPatch):
    """For the distribution ``cheroot``, CherryPy's server."""

    place = ("cheroot.wsgi", "Server")
    attribute = "wsgi_app"


class GeventPatch(_ServerPatch):
    """For ``gevent.pywsgi``."""

    place = ("gevent.pywsgi", "WSGIServer")


class WsgirefPatch(_ServerPatch):
    """For the standard library's server, which Django's ``runserver`` is made of."""

    place = ("wsgiref.handlers", "BaseHandler")
    method = "run"

    def _make(self) -> MakeWrapper:
        def make(original: Any, live: Live) -> Any:
            def run(self: Any, application: Any) -> Any:
                return original(self, observed(application, live) if live else application)

            return run

        return make
