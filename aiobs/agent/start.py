"""Makes sure that somebody drains the flight records of this process: the face of the agent to the runtime."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from aiobs.agent.bell import ring
from aiobs.agent.election import Leadership
from aiobs.guard import say_once
from aiobs.settings import Settings

if TYPE_CHECKING:
    from aiobs.agent.thread import AgentThread

_KEPT = ("PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")
_SHELL = "/bin/sh"
_thread: AgentThread | None = None


def ensure_agent(settings: Settings, runtime_dir: Path) -> None:
    """See to it that the records of `runtime_dir` are drained, as ``settings.agent`` says; safe to call often.

    Call it after the flight record has appeared: an agent about to leave looks for new records once more.
    Where no process can be started, a thread does it, and that is said once.
    """
    if settings.agent == "off":
        return
    if settings.agent == "process":
        try:
            leadership = Leadership.take(runtime_dir, tries=1)
            if leadership is None:
                ring(runtime_dir)
                return
            try:
                _launch(settings, runtime_dir, leadership.descriptor)
            finally:
                leadership.release()
        except OSError as error:
            say_once("agent.start", "aiobs: the agent cannot be started (%s); a thread of this process does its work", error)  # fmt: skip
        else:
            return
    start_thread(settings, runtime_dir)


def start_thread(settings: Settings, runtime_dir: Path) -> AgentThread:
    """Run the agent's loop in a daemon thread of this process, one for each process."""
    global _thread
    from aiobs.agent.thread import AgentThread

    if _thread is None or not _thread.is_alive():
        _thread = AgentThread(settings, runtime_dir)
        _thread.start()
    return _thread


def stop_thread(timeout_s: float) -> bool:
    """Let the thread, if there is one, drain what is left and end; says whether it managed in time."""
    return _thread is None or not _thread.is_alive() or _thread.stop(timeout_s)


def _agent_command(settings: Settings, runtime_dir: Path, lock: int) -> list[str]:
    """The agent's command line. ``-S``: no site-packages' start-up code, no sitecustomize of anybody."""
    return [
        sys.executable, "-S", "-m", "aiobs.agent", "--runtime-dir", str(runtime_dir), "--linger",
        f"{settings.agent_linger_s:g}", "--spool-bytes", str(settings.spool_bytes), "--lock", str(lock),
        "--devices", settings.devices, "--device-period", f"{settings.device_period_s:g}",
        "--host-period", f"{settings.host_period_s:g}",
    ]  # fmt: skip


def _agent_environment() -> dict[str, str]:
    """The environment of an agent: ours without Python's switches, with a path on which aiobs is found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name in _KEPT}
    home = str(Path(__file__).resolve().parents[2])
    # sys.path[0] is the user's script folder, whose modules could stand in for anything.
    folders = [home, *(entry for entry in sys.path[1:] if os.path.isabs(entry) and entry != home)]
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def _launch(settings: Settings, runtime_dir: Path, lock: int) -> None:
    import subprocess

    if getattr(sys, "frozen", False) or "py" not in Path(sys.executable or "").name:
        raise OSError(f"sys.executable={sys.executable!r} is no Python interpreter")
    command = _agent_command(settings, runtime_dir, lock)
    # The agent must not be a child of the user's process, which may wait for children of its own. What we
    # start only starts the agent and ends: a shell takes one millisecond for it, Python ten.
    if os.access(_SHELL, os.X_OK):
        command = [_SHELL, "-c", '"$@" &', "sh", *command]
    else:
        command = [sys.executable, "-I", "-S", "-c", "import os, sys\nif not os.fork(): os.execv(sys.argv[1], sys.argv[1:])", *command]  # fmt: skip
    log = os.open(
        runtime_dir / "agent" / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        with _unnoticed():
            starter = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=_agent_environment(),
                start_new_session=True, pass_fds=(lock,),
            )  # fmt: skip
            starter.wait()
    finally:
        os.close(log)
    if starter.returncode:
        raise OSError(f"{command[0]} ended with {starter.returncode}")


@contextlib.contextmanager
def _unnoticed() -> Generator[None]:
    """Keep the SIGCHLD of a child that is started and reaped inside from the user's own handling of it."""
    if signal.getsignal(signal.SIGCHLD) in (signal.SIG_DFL, signal.SIG_IGN):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
        signal.sigtimedwait({signal.SIGCHLD}, 0)
        # Signals of one kind are not queued: had a child of the user ended meanwhile, it was ours as well.
        with contextlib.suppress(ChildProcessError):
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                os.kill(os.getpid(), signal.SIGCHLD)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
