"""The watchdog: a fork of the injector that undoes everything should the injector die or hang.

It holds the session's locks with the injector, so nobody else acts on the journal while it does.
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from .audit import append
from .identity import ProcessIdentity
from .place import Place
from .undoing import undo_session

HEARTBEAT_S = 0.1
"""How often the injector is heard of at least."""
GOODBYE, ACTING = b"q", b"a"
"""What the injector says besides: that it ends, and that it begins something that may take long."""
ACTING_S = 60.0
"""How long it may be unheard of while it acts: copies a checkpoint, waits for a worker on a busy machine."""


def start_watchdog(place: Place, session: Path, silence_s: float, keep: set[int]) -> tuple[int, int]:
    """Fork the watchdog of this process; returns its pid and the descriptor to send heartbeats to.

    Args:
        silence_s: an injector unheard of for so long is killed, and its faults undone.
        keep: descriptors it shares with us (the locks); every other one is closed in it.
    """
    injector = ProcessIdentity.of(os.getpid())
    heard, heartbeat = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    ready, say_ready = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
            _close_all_but({0, 1, 2, heard, say_ready, *keep})
            try:
                descriptor = os.pidfd_open(injector.pid)
            except ProcessLookupError:  # dead already: the pipe says so too
                descriptor = heard
            try:
                os.write(say_ready, b"r")
            except OSError:  # the injector has died since: nobody waits for the word, and there is work to do
                pass
            os.close(say_ready)
            _watch(place, session, injector, heard, descriptor, silence_s)
            code = 0
        finally:
            os._exit(code)
    os.close(heard)
    os.close(say_ready)
    answered = os.read(ready, 1)
    os.close(ready)
    if not answered:
        os.close(heartbeat)
        raise OSError("the watchdog did not start")
    return pid, heartbeat


def _watch(
    place: Place, session: Path, injector: ProcessIdentity, heard: int, descriptor: int, silence_s: float
) -> None:
    poll = select.poll()
    poll.register(heard, select.POLLIN)
    poll.register(descriptor, select.POLLIN)
    patience_s = silence_s
    while True:
        ready = poll.poll(patience_s * 1000)
        if not ready:
            injector.send(signal.SIGKILL)
            reason = f"the injector was silent for {patience_s:g} s and has been killed"
            break
        content = os.read(heard, 4096) if any(number == heard for number, _ in ready) else b"\0"
        if content.endswith(GOODBYE):
            return
        if not content or not injector.is_alive():
            reason = "the injector is gone"
            break
        patience_s = max(silence_s, ACTING_S) if content.endswith(ACTING) else silence_s
    account, residue = undo_session(session)
    append(place.audit_file, {
        "what": "undone", "session": session.name, "by": "watchdog", "because": reason, "residue": residue,
        "injections": sorted({it.injection for it in account.standing}),
    })  # fmt: skip


def _close_all_but(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number not in keep:
            try:
                os.close(number)
            except OSError:
                continue
