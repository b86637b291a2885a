"""The recorder's one mutable global: which flight record this process writes to, and what surrounds its spans."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiobs import ids
from aiobs.guard import on_fault, swallow
from aiobs.propagation import Context
from aiobs.recorder import layout as at
from aiobs.recorder.flight import Flight
from aiobs.settings import Settings
from aiobs.telemetry import Route

Foreign = Callable[[], "tuple[object, Any]"]
"""(token, context): the context is a `Context`, a `Span` of ours that OpenTelemetry holds, or None."""


class State:
    """What the hot path looks at.

    Attributes:
        flight: the open flight record, or None.
        sleeping: called to open one at the next record (lazy start, forked child), or None.
        ambient: context that top-level spans join: the process span.
        run: context of the run's root span, linked to by spans that stay outside the run trace.
        joined: top-level spans that joined so far; `join_limit`: how many may.
        surrounded: whether a span's parent may be something else than a span of ours (a step's phase, a span of
            OpenTelemetry); one look instead of two on the hot path.
        foreign: tells what OpenTelemetry holds as current (token, context), once OpenTelemetry is imported.
        failing: told of each error that leaves a span or a step, and where; None: nobody wants to know.
        generation: changes with every flight record, so that what was cached for one is not used for another.
    """

    __slots__ = (
        "ambient",
        "directory",
        "failing",
        "flight",
        "foreign",
        "generation",
        "join_limit",
        "joined",
        "outside",
        "resource",
        "route",
        "run",
        "settings",
        "sleeping",
        "surrounded",
    )

    def __init__(self) -> None:
        self.flight: Flight | None = None
        self.sleeping: Callable[[], None] | None = None
        self.ambient: Context | None = None
        self.run: Context | None = None
        self.failing: Callable[[BaseException, Context], None] | None = None
        self.joined = 0
        self.outside = 0
        self.join_limit = 500
        self.foreign: Foreign | None = None
        self.surrounded = False
        self.generation = 0
        self.settings = Settings()
        self.resource: dict[str, Any] = {}
        self.route = Route(run_id="")
        self.directory = Path()


state = State()
_lock = threading.RLock()
_reset: list[Callable[[], None]] = []


def on_new_flight(reset: Callable[[], None]) -> None:
    """Have `reset` called whenever the flight record changes (opened, closed, inherited over a fork)."""
    _reset.append(reset)


def _changed() -> None:
    state.generation += 1
    for reset in _reset:
        reset()


def start(settings: Settings, resource: Mapping[str, Any], route: Route, directory: Path) -> None:
    """Open this process's flight record in `directory` and record into it from now on.

    Raises:
        RecordError: the file cannot be made.
    """
    with _lock:
        stop()
        flight = Flight(directory, settings.ring_bytes, settings.value_limit)
        state.settings, state.resource, state.route, state.directory = settings, dict(resource), route, directory
        state.join_limit = settings.join_limit
        state.joined = state.outside = 0
        flight.append(at.ENTRY_RESOURCE, {"attributes": state.resource})
        flight.append(at.ENTRY_ROUTE, _route_entry(route))
        flight.publish()
        state.flight, state.sleeping = flight, None
        _changed()


def stop(exit_code: int | None = None) -> None:
    """Close the flight record; later spans go nowhere."""
    with _lock:
        flight, state.flight, state.sleeping, state.ambient = state.flight, None, None, None
        if flight is not None:
            _changed()
            flight.close(exit_code)


def sleep(opener: Callable[[], None]) -> None:
    """Have `opener` called by the first thing that is to be recorded; it is expected to call :func:`start`."""
    with _lock:
        if state.flight is None:
            state.sleeping = opener


def wake() -> Flight | None:
    """Open the flight record where one is due; what the hot path calls when it has none."""
    with _lock:
        opener, state.sleeping = state.sleeping, None
        if opener is not None and state.flight is None:
            try:
                opener()
            except Exception as error:
                swallow("recorder.wake", error)
        return state.flight


def set_resource(attributes: Mapping[str, Any]) -> None:
    """Merge `attributes` into the resource, for everything recorded from now on."""
    with _lock:
        state.resource.update(attributes)
        if state.flight is not None:
            state.flight.append(at.ENTRY_RESOURCE, {"attributes": state.resource})


def set_route(**changes: Any) -> None:
    """Change fields of the route (`rank`, `world_size`, ...), for everything recorded from now on."""
    with _lock:
        state.route = replace(state.route, **changes)
        if state.flight is not None:
            state.flight.append(at.ENTRY_ROUTE, _route_entry(state.route))


def _route_entry(route: Route) -> dict[str, Any]:
    return {name: getattr(route, name) for name in route.__dataclass_fields__}


def _count_fault() -> None:
    if state.flight is not None:
        state.flight.add(at.FAULTS)


on_fault(_count_fault)


def _reopen_in_child() -> None:
    from aiobs import names

    resource = {**state.resource, names.PROCESS_PID: os.getpid(), names.PROCESS_PARENT_PID: os.getppid()}
    start(state.settings, resource, state.route, state.directory)


def _after_fork() -> None:
    """In a forked child: the parent's record is not ours. Our own is opened when there is something to record."""
    global _lock
    _lock = threading.RLock()
    ids.reseed()
    flight, state.flight = state.flight, None
    if flight is not None:
        _changed()
        flight.detach()
        state.sleeping = _reopen_in_child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
