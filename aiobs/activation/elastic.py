"""In torchrun nothing is recorded but this: that it began its workers anew, as an event of the run."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from aiobs import names
from aiobs.guard import guarded
from aiobs.wrapping import Live, replace


def watch(api: ModuleType) -> None:
    """Record each restart that torchrun's agent makes; `api` is its module.

    Raises:
        PatchError: it is not as expected, nothing is changed then.
    """
    replace(api.SimpleElasticAgent, "_restart_workers", _noting)


def _noting(original: Any, live: Live) -> Any:
    def restart_workers(agent: Any, worker_group: Any) -> Any:
        if live:
            _note(agent, worker_group)
        return original(agent, worker_group)

    return restart_workers


@guarded("activation.elastic")
def _note(agent: Any, worker_group: Any) -> None:
    from aiobs import recorder, runtime

    # Only now: most jobs are never restarted. The launcher itself imports PyTorch but trains nothing.
    runtime.init(patches_off="all")
    recorder.set_resource({names.PROCESS_ROLE: "launcher"})
    attempt = worker_group.spec.max_restarts - agent._remaining_restarts
    recorder.event(names.EVENT_RESTART, **{names.RUN_ATTEMPT: attempt})
