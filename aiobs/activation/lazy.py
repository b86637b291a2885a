"""Wait, at next to no cost, for the first import worth recording, then start aiobs.

Nothing here may import more than ``sys`` and ``os``: it runs in every Python that a recorded command starts.
"""

from __future__ import annotations

import os
import sys

from aiobs.activation import FAILED, HOOKED, SKIPPED, STARTED, TRIGGERS, TRIGGERS_VARIABLE
from aiobs.activation.notes import note
from aiobs.activation.roles import FORK_SERVER, LAUNCHER, TOOL, role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

API = "aiobs.recorder"
"""The part of aiobs that a program imports when it uses the API: it starts with the first thing to be recorded."""
ELASTIC = "torch.distributed.elastic.agent.server.api"
"""Home of torchrun's agent, where restarts are seen."""


def activate() -> None:
    """Do what this process's role asks for. Never raises."""
    try:
        what, why = role(sys.orig_argv)
        if os.environ.get("AIOBS_ENABLED", "1").lower() in ("0", "false", "no", "off"):
            what, why = TOOL, "AIOBS_ENABLED=0"
        if what == FORK_SERVER:
            os.register_at_fork(after_in_child=_wait)
        elif what == LAUNCHER:
            _wait_in_launcher()
        elif what != TOOL:
            _wait()
            note(HOOKED)
            return
        note(SKIPPED + why)
    except Exception as error:
        _failed(error)


def _wait() -> None:
    named = os.environ.get(TRIGGERS_VARIABLE, "")
    triggers = list(filter(None, named.split(","))) or TRIGGERS
    sys.meta_path.insert(0, _Lookout({API: _start_on_use, **dict.fromkeys(triggers, _start)}))


def _wait_in_launcher() -> None:
    sys.meta_path.insert(0, _Lookout({ELASTIC: _watch_restarts}))


class _Lookout:
    """A finder that finds nothing; the first time it is asked for one of its modules it puts real hooks in its place.

    Args:
        hooks: by module, what to call with it once it has been imported.
    """

    def __init__(self, hooks: dict[str, Callable[[ModuleType], None]]) -> None:
        self.hooks = hooks

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.hooks:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            try:
                from aiobs.imports import when_imported

                for module, hook in self.hooks.items():
                    when_imported(module, hook)
            except Exception as error:
                _failed(error)
        # This import has passed the place where the new hooks stand, so its search begins again.
        for finder in list(sys.meta_path):
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


def _start(_module: ModuleType) -> None:
    from aiobs import runtime

    try:
        runtime.ensure()
    except Exception as error:
        _failed(error)
        return
    note(STARTED)


def _start_on_use(recorder: ModuleType) -> None:
    recorder.sleep(lambda: _start(recorder))


def _watch_restarts(api: ModuleType) -> None:
    from aiobs.activation import elastic

    elastic.watch(api)


def _failed(error: Exception) -> None:
    note(f"{FAILED}{type(error).__name__}: {error}")
    if os.environ.get("AIOBS_RAISE") == "1":
        raise error
