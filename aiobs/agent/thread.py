"""The agent's loop as a thread of the user's process, where no process may be started.

Other threads wait for the interpreter while this one computes, so it works in short stretches and lets go of
the interpreter between them.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from aiobs.agent.loop import Agent
from aiobs.agent.service import serve
from aiobs.agent.version import installed_version
from aiobs.guard import guarded
from aiobs.settings import Settings

RETRY_S = 1.0
"""While another agent is at work, it is asked so often whether it still is."""


class AgentThread(threading.Thread):
    """The agent as a daemon thread."""

    def __init__(self, settings: Settings, runtime_dir: Path) -> None:
        super().__init__(name="aiobs-agent", daemon=True)
        self._settings, self._runtime_dir = settings, runtime_dir
        self._stopping = threading.Event()
        self._agent: Agent | None = None

    def _make(self) -> Agent:
        self._agent = Agent(
            self._runtime_dir,
            spool_bytes=self._settings.spool_bytes,
            version=installed_version(),
            settings=self._settings,
            breathe=lambda: time.sleep(0),
        )
        return self._agent

    @guarded("agent.thread")
    def run(self) -> None:
        """Serve while the process lives, or wait for the one who does to end."""
        last = False
        while not last:
            # Told to stop while somebody else serves, it looks once more: that one may be gone by now.
            last = self._stopping.is_set()
            served = serve(self._make, self._runtime_dir, linger_s=float("inf"), stopping=self._stopping.is_set)
            last = last or (served and self._stopping.is_set())
            if not last:
                self._stopping.wait(RETRY_S)

    def stop(self, timeout_s: float) -> bool:
        """Drain what is there and end; says whether it managed in time."""
        self._stopping.set()
        if self._agent is not None:
            self._agent.wake()
        self.join(timeout_s)
        return not self.is_alive()
