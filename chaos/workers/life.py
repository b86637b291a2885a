"""The life of a worker: bound to the injector's, with a status file that is always whole."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiobs.chaos import kernel
from aiobs.chaos.namespaces import enter_network


class Worker:
    """What a worker was told, and where it says what it has done.

    Attributes:
        arguments: of its module.
        ended: whether it was asked to end.
    """

    def __init__(self, death: signal.Signals = signal.SIGKILL) -> None:
        """Args: death: the signal it gets when the injector dies; SIGTERM for one that has to put something back."""
        told = json.loads(sys.argv[1])
        self.arguments: dict[str, Any] = told["arguments"]
        self.ended = False
        self._name = Path(told["status"]).name
        # Held open: a worker that enters a mount namespace finds no path of ours any more.
        self._folder = os.open(Path(told["status"]).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        signal.signal(signal.SIGTERM, self._end)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        for path in told["joins"]:
            Path(path).write_text(str(os.getpid()))
        if told["enters"]:
            try:
                enter_network(told["enters"])
            except OSError as error:
                sys.exit(f"{told['enters']} cannot be entered: {error.strerror}")
        # The spawning thread is the injector's only one; with it this process goes too.
        kernel.die_with_parent(death)
        if os.getppid() != told["parent"]:
            sys.exit("the injector is gone")

    def _end(self, *_: object) -> None:
        self.ended = True

    def say(self, evidence: str = "", **more: Any) -> None:
        """Say what has been done: `evidence` one line once the fault acts, "" before; the first call says that
        the worker is ready."""
        said: Mapping[str, Any] = {"pid": os.getpid(), "evidence": evidence, **more}
        fresh = f"{self._name}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(said))
        os.replace(fresh, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
