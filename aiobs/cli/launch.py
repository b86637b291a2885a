"""Start a command and be invisible around it: its terminal, its signals, its exit stay its own.

The command stays in the caller's process group with the caller's stdin, stdout and stderr, so that pipelines,
Ctrl-C, Ctrl-Z and ``fg`` work as without us. Signals sent to the launcher alone are passed on; those that the
terminal or anybody else sends to the whole group are not, since the command has had them already.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiobs.cli.bystander import Bystander

NOT_EXECUTABLE = 126
NOT_FOUND = 127

# Not passed on: what cannot be caught, what only the kernel raises in a faulty process, job control that must
# stop the launcher too, and news about the launcher's own children and timers.
_OWN = {
    getattr(signal, name)
    for name in (
        "SIGKILL", "SIGSTOP", "SIGCHLD", "SIGTTIN", "SIGTTOU", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP",
        "SIGABRT", "SIGSYS", "SIGPIPE", "SIGXFSZ", "SIGXCPU", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGURG", "SIGIO",
    )
    if hasattr(signal, name)
}  # fmt: skip
PASSED_ON = {number for number in signal.valid_signals() if number not in _OWN}
"""Signals that a launcher passes on to its command."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: `code` where it exited, else the number of the `signal` that killed it."""

    code: int = 0
    signal: int = 0

    def exit_code(self) -> int:
        """As a shell has it: the exit code, or 128 + the signal."""
        return 128 + self.signal if self.signal else self.code

    def signal_name(self) -> str:
        """``SIGKILL`` and the like; "" where there was no signal."""
        if not self.signal:
            return ""
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"SIG{self.signal}"


class CannotStartError(Exception):
    """The command cannot be started; `code` is 127 (there is none) or 126 (it cannot be run), as in env(1)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Child:
    """A running command.

    Signals are blocked from here on until :meth:`wait` returns, so none is lost between.

    Raises:
        CannotStartError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        path = find_program(command[0], environment)
        self._watched = PASSED_ON | {signal.SIGCHLD}
        # With SIGCHLD ignored (some service managers leave it so) there would be no exit code to fetch.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._watched)
        try:
            self.pid = self._spawn(path, list(command), environment)
            self._bystander = Bystander()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            if isinstance(error, FileNotFoundError):
                raise CannotStartError(f"{command[0]}: its interpreter does not exist", NOT_FOUND) from error
            raise CannotStartError(f"{command[0]}: {error.strerror}", NOT_EXECUTABLE) from error

    def _spawn(self, path: str, command: list[str], environment: Mapping[str, str]) -> int:
        # Python ignores these two for itself; the command starts with what a shell would give it. File
        # descriptors beyond 2 that we inherited (process substitution, make's jobserver) are inherited on.
        defaults = [number for number in (signal.SIGPIPE, signal.SIGXFSZ) if number in signal.valid_signals()]
        try:
            return os.posix_spawn(path, command, environment, setsigmask=self._mask, setsigdef=defaults)
        except OSError as error:
            if error.errno != errno.ENOEXEC:  # a script without "#!", which execvp() hands to sh
                raise
        return os.posix_spawn(
            "/bin/sh", ["sh", path, *command[1:]], environment, setsigmask=self._mask, setsigdef=defaults
        )

    def wait(self) -> Ended:
        """Wait for the end, passing signals on meanwhile."""
        try:
            while True:
                ended = self._ended()
                if ended is not None:
                    return ended
                self._pass_on(signal.sigwaitinfo(self._watched))
        finally:
            self._bystander.close()
            # What arrived together with the command's end was meant for the command.
            while signal.sigtimedwait(self._watched, 0) is not None:
                pass
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _ended(self) -> Ended | None:
        if os.getpid() == 1:
            _reap(self.pid)
        # Looked at, not reaped: as long as this process is there an agent that comes late can still read how
        # the command ended.
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return Ended(code=found.si_status) if found.si_code == os.CLD_EXITED else Ended(signal=found.si_status)

    def _pass_on(self, news: signal.struct_siginfo) -> None:
        number = news.si_signo
        if number == signal.SIGCHLD:
            return
        # si_code > 0: from the kernel, that is from the terminal, which has told the whole process group.
        if news.si_code <= 0 and not self._bystander.got(number):
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)


def find_program(name: str, environment: Mapping[str, str]) -> str:
    """The file that execvp() would run.

    Raises:
        CannotStartError: there is none.
    """
    if "/" in name:
        if not os.path.exists(name):
            raise CannotStartError(f"{name}: No such file or directory", NOT_FOUND)
        if os.path.isdir(name) or not os.access(name, os.X_OK):
            raise CannotStartError(f"{name}: Permission denied", NOT_EXECUTABLE)
        return name
    search = environment.get("PATH", os.defpath)
    found = shutil.which(name, path=search)
    if found is not None:
        return found
    if shutil.which(name, mode=os.F_OK, path=search) is not None:
        raise CannotStartError(f"{name}: Permission denied", NOT_EXECUTABLE)
    raise CannotStartError(f"{name}: No such file or directory", NOT_FOUND)


def _reap(keep: int) -> None:
    """As pid 1 of a container, bury orphans; `keep` is left for its own wait."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == keep:
            return
        os.waitpid(found.si_pid, os.WNOHANG)


def end_like(ended: Ended) -> int:
    """End this process as its command ended: die of the same signal, or give back the exit code to return."""
    if not ended.signal:
        return ended.code
    import resource

    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if ended.signal not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(ended.signal, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {ended.signal})
    os.kill(os.getpid(), ended.signal)
    # Only pid 1 of a container outlives that.
    return ended.exit_code()
