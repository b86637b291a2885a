"""``python -m aiobs.agent``: the agent as a process of its own, started on demand, as a sidecar or by hand."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import math
import os
import signal
import sys
from pathlib import Path

from aiobs import guard
from aiobs.agent.election import Leadership
from aiobs.agent.loop import Agent
from aiobs.agent.service import serve
from aiobs.agent.version import installed_version
from aiobs.errors import AiobsError
from aiobs.recorder.location import runtime_dir
from aiobs.settings import Settings, load_settings

LOG_BYTES = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Run an agent; returns the exit code: 0 when done or when there is an agent already, 2 for bad settings."""
    parser = argparse.ArgumentParser(
        prog="python -m aiobs.agent", description="Drains flight records and exports them."
    )
    parser.add_argument("--runtime-dir", help="folder of flight records, spool and agent (AIOBS_RUNTIME_DIR)")
    parser.add_argument("--linger", type=float, help="seconds to stay when nothing is left to do; inf: for ever")
    parser.add_argument("--spool-bytes", help="cap of the spool on disk (AIOBS_SPOOL_BYTES)")
    parser.add_argument("--devices", help="auto or off: whether GPUs are sampled (AIOBS_DEVICES)")
    parser.add_argument("--device-period", help="seconds between two readings of a GPU (AIOBS_DEVICE_PERIOD)")
    parser.add_argument("--host-period", help="seconds between two readings of the host (AIOBS_HOST_PERIOD)")
    parser.add_argument("--foreground", action="store_true", help="log to the terminal and stay for ever")
    parser.add_argument("--lock", type=int, help=argparse.SUPPRESS)  # descriptor inherited from who started us
    given = parser.parse_args(arguments)
    try:
        settings = load_settings({
            "runtime_dir": given.runtime_dir, "spool_bytes": given.spool_bytes, "devices": given.devices,
            "device_period_s": given.device_period, "host_period_s": given.host_period,
        })  # fmt: skip
        folder = runtime_dir(settings)
    except AiobsError as error:
        sys.stderr.write(f"aiobs agent: {error}\n")
        return 2
    linger_s = math.inf if given.linger is None and given.foreground else given.linger
    leadership = None if given.lock is None else Leadership(folder, given.lock)
    return run(
        folder, settings, settings.agent_linger_s if linger_s is None else linger_s, foreground=given.foreground,
        leadership=leadership,
    )  # fmt: skip


def run(
    folder: Path, settings: Settings, linger_s: float, *, foreground: bool, leadership: Leadership | None = None
) -> int:
    """Run an agent in this process, which is nothing but the agent; returns the exit code."""
    _begin(None if foreground else folder / "agent" / "log")
    # Spans pass through as tuples by the hundred thousand, free of cycles: looking for some cost a tenth of the time.
    gc.set_threshold(100_000, 50, 100)
    stopped: list[int] = []
    agents: list[Agent] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        for agent in agents:
            agent.wake()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)

    def make() -> Agent:
        agents[:] = [Agent(folder, spool_bytes=settings.spool_bytes, version=installed_version(), settings=settings)]
        return agents[0]

    try:
        served = serve(make, folder, linger_s=linger_s, stopping=lambda: bool(stopped), leadership=leadership)
    except OSError as error:
        guard.logger.error("aiobs agent: %s", error)
        return 1
    if not served and foreground:
        guard.logger.warning("aiobs agent: there is an agent for %s already", folder)
    return 0


def _begin(log: Path | None) -> None:
    """Leave behind what was inherited from the process that started us."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # A training rank is often bound to some cores; the agent serves them all and must not sit on one of them.
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    if log is not None:
        with contextlib.suppress(OSError):
            if log.stat().st_size > LOG_BYTES:
                log.replace(log.with_suffix(".old"))
                descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                os.close(descriptor)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s", stream=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
