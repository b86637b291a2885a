"""Start and stop of aiobs in this process: ties settings, flight record, patches and agent together."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any

from aiobs import identity, names, propagation, recorder
from aiobs.clock import monotonic_ns
from aiobs.errors import AiobsError, SettingError
from aiobs.guard import say_once, swallow
from aiobs.propagation import Context
from aiobs.recorder.flight import process_start_ns
from aiobs.recorder.location import runtime_dir
from aiobs.settings import Settings, load_settings
from aiobs.telemetry import INTERNAL

_lock = threading.RLock()
_closing: list[Callable[[], None]] = []
"""What :func:`shutdown` undoes, last first; empty: not started."""
_NO_PARENT = bytes(8)
THREAD_STOP_S = 5.0
"""How long the end of a process may wait for an agent in a thread to write what is left."""


def init(**settings: Any) -> None:
    """Start recording in this process. A second call does nothing.

    Args:
        settings: any setting by its name (see the settings page), e.g. ``service_name="trainer"``; they win
            over the environment.

    Raises:
        SettingError: an argument is not a setting or has a value that cannot be used. What is wrong with the
            environment (a folder that cannot be written, a bad variable) is logged once and recording is off or
            goes on with the default: a program must not fail for being watched.
    """
    load_settings(settings, environment={})
    _start(load_settings(settings, complain=_complain))


def ensure() -> None:
    """Start recording as the environment says, unless that has been done; never raises."""
    try:
        _start(load_settings(complain=_complain))
    except Exception as error:
        swallow("runtime.ensure", error)


def _complain(error: SettingError) -> None:
    say_once(f"setting.{error.field}", "aiobs: %s", error)


def _start(settings: Settings) -> None:
    with _lock:
        if _closing or not settings.enabled:
            return
        environment = dict(os.environ)
        try:
            directory = runtime_dir(settings)
            route = identity.route(settings, environment)
            recorder.start(settings, identity.resource(settings, environment, route), route, directory / "records")
        except (AiobsError, OSError) as error:
            say_once("runtime.start", "aiobs: nothing is recorded: %s", error)
            return
        _closing.append(recorder.stop)
        atexit.register(shutdown)
        _closing.append(lambda: atexit.unregister(shutdown))
        for part in (_open_run, _open_process, _agent, _bridge, _children, _patches, _points):
            try:
                part(settings)
            except Exception as error:
                swallow(f"runtime.{part.__name__.strip('_')}", error)


def shutdown() -> None:
    """Stop recording: finish what is open, put every patched object back, close the flight record.

    Takes no time to speak of, as the agent does the rest; only with ``agent="thread"`` it waits, for a few
    seconds at most, until the thread has written what is left.
    """
    with _lock:
        while _closing:
            undo = _closing.pop()
            try:
                undo()
            except Exception as error:
                swallow("runtime.shutdown", error)


_first = True


def _began() -> int:
    """When what is recorded here began: the process's start, or now where recording has been on before."""
    return process_start_ns() if _first else monotonic_ns()


def _open_run(settings: Settings) -> None:  # noqa: ARG001
    """Record the run's own span, where no launcher does and no other rank will."""
    route = recorder.state.route
    root = Context(bytes.fromhex(route.run_trace), bytes.fromhex(route.run_span))
    recorder.state.run = root
    if os.environ.get(identity.LAUNCHER) or route.rank != 0:
        return
    above = propagation.from_environment(os.environ)
    parent = above.span_id if above is not None else _NO_PARENT
    started, pid = _began(), os.getpid()
    attributes = {names.RUN_NAME: route.run_name}
    span = (names.SPAN_RUN, INTERNAL, "aiobs", "", root.trace_id, root.span_id, parent)
    slot = recorder.open_mark(*span, started, attributes, remote=above is not None)

    def close() -> None:
        if os.getpid() == pid:  # a forked child has no part in it
            recorder.write_span(slot, *span, started, monotonic_ns(), attributes, remote=above is not None)

    _closing.append(close)


def _open_process(settings: Settings) -> None:  # noqa: ARG001
    """Record the process's own span, which top-level spans join."""
    global _first
    state = recorder.state
    process = recorder.start_span(names.SPAN_PROCESS, parent=state.run, start_ns=_began())
    state.ambient = process.context
    _first = False

    def close() -> None:
        if state.outside:
            process.set(names.PROCESS_SPANS_OUTSIDE, state.outside)
        process.end()
        state.ambient = state.run = None

    _closing.append(close)


def _agent(settings: Settings) -> None:
    from aiobs.agent.start import ensure_agent, stop_thread

    directory = runtime_dir(settings)
    ensure_agent(settings, directory)
    # Once more at the end: an agent that was killed during a long run is replaced, and drains what is left.
    _closing.append(lambda: ensure_agent(settings, directory))
    # Below the closing of the record, so that the thread finds it closed and can finish.
    _closing.insert(0, lambda: _stop(stop_thread))


def _stop(stop_thread: Callable[[float], bool]) -> None:
    if not stop_thread(THREAD_STOP_S):
        say_once("runtime.thread", "aiobs: not all was written in %g s; `aiobs recover` brings the rest", THREAD_STOP_S)


def _bridge(settings: Settings) -> None:
    from aiobs import otel

    otel.install(settings)
    _closing.append(otel.remove)


def _children(settings: Settings) -> None:
    from aiobs import children

    children.install(settings)
    _closing.append(children.remove)


def _patches(settings: Settings) -> None:
    from aiobs import patches

    patches.install_all(settings)
    _closing.append(patches.remove_all)


def _points(settings: Settings) -> None:
    if settings.points == "functions":
        from aiobs import points

        points.watch()
        _closing.append(points.unwatch)
