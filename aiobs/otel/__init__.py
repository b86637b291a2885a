"""The OpenTelemetry bridge: spans made through its API go into our flight record and nest with ours.

Nothing here imports OpenTelemetry; a process that never does pays two entries in a dictionary. Once it is
imported, :mod:`aiobs.otel.bridge` joins in.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from aiobs.imports import when_imported
from aiobs.settings import Settings

PATCH = "opentelemetry"
"""Name of the bridge in the setting ``patches_off``."""

_undo: list[Callable[[], None]] = []


def install(settings: Settings) -> None:
    """Join OpenTelemetry in this process as soon as it is imported. A second call does nothing."""
    if _undo or not settings.enabled or PATCH in settings.patches_off or "all" in settings.patches_off:
        return
    _undo.append(when_imported("opentelemetry.trace", _api_imported))
    _undo.append(when_imported("opentelemetry.sdk.trace", _sdk_imported))


def remove() -> None:
    """Leave everything of OpenTelemetry as it was found. Safe to call twice."""
    while _undo:
        _undo.pop()()


def _api_imported(_: ModuleType) -> None:
    from aiobs.otel import bridge

    _undo.append(bridge.join_api())


def _sdk_imported(_: ModuleType) -> None:
    from aiobs.otel import bridge

    _undo.append(bridge.join_sdk())
