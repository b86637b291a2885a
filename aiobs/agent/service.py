"""An agent in office: elected, at work until there is nothing left to do, and gone without leaving a gap."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from aiobs.agent.election import Leadership
from aiobs.agent.loop import Agent
from aiobs.agent.records import RecordFolder
from aiobs.guard import swallow

PATIENCE_S = 900.0
"""An agent that has nothing left but a spool nobody takes stays so long; the next agent goes on with it."""
FAULTS = 5
"""After so many faults in a row the agent gives up; the records wait for the next one."""


def serve(
    make_agent: Callable[[], Agent],
    runtime_dir: Path,
    *,
    linger_s: float,
    stopping: Callable[[], bool],
    patience_s: float = PATIENCE_S,
    leadership: Leadership | None = None,
) -> bool:
    """Be the agent of `runtime_dir`, if there is none yet.

    Args:
        make_agent: makes the agent; again after a fault, to go on from the journal.
        runtime_dir: the runtime directory.
        linger_s: seconds to stay when there is nothing to do.
        stopping: true when it is to drain once more and end.
        patience_s: seconds to stay only for a spool that nobody takes.
        leadership: the lock, where whoever started us has handed it over.

    Returns:
        False where there was an agent already.

    Raises:
        OSError: lock or journal cannot be used.
    """
    served = False
    faults = 0
    while faults < FAULTS:
        leadership = leadership or Leadership.take(runtime_dir)
        if leadership is None:
            return served
        served = True
        leadership.sign()
        held: set[Path] = set()
        try:
            agent = make_agent()
            try:
                _work(agent, leadership, linger_s, patience_s, stopping)
                held = agent.held()
            finally:
                agent.close()
        except Exception as error:
            faults += 1
            swallow("agent.turn", error)
            time.sleep(min(faults, 5))
            continue
        finally:
            leadership.release()
            leadership = None
        # A recorder that looked while the lock was still held relies on this second look.
        if stopping() or not set(RecordFolder(runtime_dir / "records").look()) - held:
            return True
    return served


def _work(
    agent: Agent, leadership: Leadership, linger_s: float, patience_s: float, stopping: Callable[[], bool]
) -> None:
    alone_since: float | None = None
    while not stopping():
        if not leadership.stands():
            return  # the runtime directory was removed
        agent.turn()
        now = time.monotonic()
        if agent.idle_since is not None and now - agent.idle_since >= linger_s:
            break
        if agent.draining or not agent.waiting():
            alone_since = None
        elif alone_since is None:
            alone_since = now
        elif now - alone_since >= max(patience_s, linger_s):
            break
        agent.wait()
    agent.turn(last=True)
