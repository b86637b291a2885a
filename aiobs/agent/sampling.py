"""The agent's side of the sampler: started, heard, asked, and replaced when it hangs or dies."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from aiobs.agent.exits import stat_fields
from aiobs.agent.start import _agent_environment, _unnoticed
from aiobs.device import wire
from aiobs.device.fake import with_library
from aiobs.guard import say_once

START_S = 30.0
"""A driver may take so long to start."""
HANG_S = 5.0
"""A sampler that says nothing for so long, or for five periods, hangs."""
LONGEST_PAUSE_S = 60.0
STEADY_S = 60.0
"""A sampler that worked so long was well: the next one is started at once again."""
READ_BYTES = 1 << 16

Message = tuple[str, Any]


def sampler_command(period_s: float) -> list[str]:
    """The sampler's command line, without its descriptors."""
    return [sys.executable, "-S", "-m", "aiobs.device.sampler", "--period", f"{period_s:g}"]


class Sampling:
    """One sampler at a time.

    Attributes:
        restarts: samplers that were given up or died. `problem`: why the last one was, "" where none was.
        over: there is nothing to sample, or no process can be started: none is started any more.
    """

    def __init__(
        self, command: Sequence[str], period_s: float, *, hang_s: float = HANG_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`command`: of a sampler, to which its descriptors are added; `period_s`: between its readings."""
        self.restarts = 0
        self.problem = ""
        self.over = False
        self._command, self._clock = list(command), clock
        self._hang_s = max(hang_s, 5 * period_s)
        self._out = self._control = -1
        self._pid = self._ticks = 0
        self._rest = b""
        self._listed = self._none = False
        self._started_at = self._heard_at = self._start_at = 0.0
        self._pause_s = 1.0

    @property
    def running(self) -> bool:
        """Whether there is a sampler now."""
        return self._out >= 0

    def turn(self) -> list[Message]:
        """Start a sampler where there is none and one is due; what it said since the last turn."""
        if self.over:
            return []
        now = self._clock()
        if not self.running and (now < self._start_at or not self._start(now)):
            return []
        found, ended = self._read(now)
        if ended:
            self._ended(now)
        elif now - self._heard_at > (self._hang_s if self._listed else max(START_S, self._hang_s)):
            self._give_up(now, f"said nothing for {now - self._heard_at:.0f} s")
        return found

    def _start(self, now: float) -> bool:
        """Start one; says whether that worked."""
        import subprocess

        out, their_out = os.pipe()
        their_control, control = os.pipe()
        command = [
            *self._command, "--out", str(their_out), "--control", str(their_control), "--agent", str(os.getpid()),
        ]  # fmt: skip
        try:
            with _unnoticed():
                # As the agent itself: no child of whoever we are, so nobody has to wait for it.
                subprocess.run(
                    ["/bin/sh", "-c", '"$@" &', "sh", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    cwd="/", env=with_library(_agent_environment()), start_new_session=True, pass_fds=(their_out, their_control),
                    check=True,
                )  # fmt: skip
        except (OSError, subprocess.CalledProcessError) as error:
            os.close(out)
            os.close(control)
            self.over = True
            say_once("sampling.start", "aiobs: GPUs are not sampled: no process can be started for it (%s)", error)
            return False
        finally:
            os.close(their_out)
            os.close(their_control)
        for descriptor in (out, control):
            os.set_blocking(descriptor, False)
        self._out, self._control = out, control
        self._pid = self._ticks = 0
        self._rest, self._listed, self._none = b"", False, False
        self._started_at = self._heard_at = now
        return True

    def _read(self, now: float) -> tuple[list[Message], bool]:
        """Messages, and whether the sampler is gone."""
        found: list[Message] = []
        while True:
            try:
                raw = os.read(self._out, READ_BYTES)
            except BlockingIOError:
                return found, False
            if not raw:
                return found, True
            self._heard_at = now
            messages, self._rest = wire.messages(self._rest + raw)
            for kind, content in messages:
                if kind == wire.HELLO:
                    self._pid, self._ticks = content
                elif kind == wire.NOTE:
                    say_once(f"sampler:{content}", "aiobs: sampling devices: %s", content)
                else:
                    if kind == wire.DEVICES and not self._listed:
                        self._listed, self._none = True, not content
                    found.append((kind, content))

    def _ended(self, now: float) -> None:
        if self._none:
            self._close()
            self.over = True
        else:
            self._give_up(now, "ended")

    def _give_up(self, now: float, reason: str) -> None:
        self.restarts += 1
        self.problem = reason
        self._kill()
        self._close()
        if now - self._started_at > STEADY_S:
            self._pause_s = 1.0
        say_once("sampling", "aiobs: the sampler of GPUs %s; another one is started in %g s", reason, self._pause_s)
        self._start_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _kill(self) -> None:
        if self._pid and stat_fields(self._pid)[1] == self._ticks:
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)

    def _close(self) -> None:
        for descriptor in (self._out, self._control):
            if descriptor >= 0:
                os.close(descriptor)
        self._out = self._control = -1

    def ask(self, wish: bytes) -> None:
        """Ask the sampler for something (:data:`aiobs.device.wire.NOW`, ``WHO``)."""
        if self.running:
            with contextlib.suppress(OSError):
                os.write(self._control, wish)

    def close(self) -> None:
        """End the sampler; a later turn starts another one."""
        if self.running:
            self._kill()
            self._close()
        self._start_at = 0.0
