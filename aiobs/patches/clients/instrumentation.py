"""OpenTelemetry's instrumentation packages for clients, where they are installed."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any

PACKAGE = "opentelemetry.instrumentation"


class Instrumentation:
    """One instrumentor of ``opentelemetry-instrumentation-*``.

    Args:
        module: its module below ``opentelemetry.instrumentation``.
        name: of its class.

    Attributes:
        on: whether we switched it on, and so may switch it off.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = f"{PACKAGE}.{module}", name
        self._instrumentor: Any = None

    @property
    def on(self) -> bool:
        return self._instrumentor is not None

    def switch_on(self) -> bool:
        """Instrument the library, if the package is there and nobody has done so; returns whether we did."""
        if not _is_there(self._module) or _switched_off(self._name):
            return False
        made = getattr(import_module(self._module), self._name, None)
        if made is None:
            return False  # an older one that does not know this library yet
        if _is_instrumented(made):
            return False
        instrumentor = made()
        conflict: type[Exception] = import_module(f"{PACKAGE}.dependencies").DependencyConflictError
        try:
            instrumentor.instrument(raise_exception_on_conflict=True)
        except conflict:
            return False  # made for other versions of the library than the one that is here
        self._instrumentor = instrumentor
        return True

    def switch_off(self) -> None:
        """Leave the library as it was, if it was we who instrumented it."""
        instrumentor, self._instrumentor = self._instrumentor, None
        if instrumentor is not None:
            instrumentor.uninstrument()


def is_on(module: str, name: str) -> bool:
    """Whether the program itself has switched that instrumentor on."""
    found = sys.modules.get(f"{PACKAGE}.{module}")
    return found is not None and _is_instrumented(getattr(found, name, None))


def _is_instrumented(made: Any) -> bool:
    # Asking an instance would make one anew, which forgets what the program set.
    return bool(getattr(getattr(made, "_instance", None), "_is_instrumented_by_opentelemetry", False))


def _switched_off(name: str) -> bool:
    """Whether OpenTelemetry's own variable switches that instrumentor off, by the name of its entry point."""
    off = os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "")
    short = name.removesuffix("Instrumentor").removesuffix("Client").lower()
    return short in {entry.strip().replace("-client", "").replace("-", "").lower() for entry in off.split(",")}


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def no_http_spans() -> AbstractContextManager[Any]:
    """While it lasts, OpenTelemetry's HTTP instrumentations make no spans, as a span of ours stands for the request."""
    found = sys.modules.get(f"{PACKAGE}.utils")
    suppress = None if found is None else getattr(found, "suppress_http_instrumentation", None)
    return nullcontext() if suppress is None else suppress()
