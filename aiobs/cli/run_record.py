"""The run's own span, in a flight record of the launcher.

The span is marked open before the command starts, so that a launcher killed together with its command still
leaves a run that says it was cut off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from aiobs import identity, names, recorder
from aiobs.agent.cgroup import OomCounter, counter_files
from aiobs.agent.exits import EXIT, OOM_KILL, SIGNAL, Exit
from aiobs.cli.launch import Ended
from aiobs.cli.run_plan import Plan
from aiobs.cli.secrets import redacted
from aiobs.clock import monotonic_ns
from aiobs.recorder.schema import OWN_SCOPE
from aiobs.settings import Settings
from aiobs.telemetry import INTERNAL, STATUS_ERROR, STATUS_UNSET

ROLE = "launcher"
"""The launcher's ``aiobs.process.role``."""
_NO_PARENT = bytes(8)


class RunRecord:
    """The span of one run, open until :meth:`close`.

    Raises:
        RecordError: the flight record cannot be made.
    """

    def __init__(self, plan: Plan, command: Sequence[str], settings: Settings, runtime_dir: Path) -> None:
        # The same route as the command's processes have, so that one set of exporters serves all of the run.
        route = identity.route(settings, plan.environment)
        resource = identity.resource(settings, plan.environment, route)
        resource[names.SERVICE_NAME] = settings.service_name or plan.name
        resource[names.PROCESS_ROLE] = ROLE
        resource.pop(names.GPU_IDS, None)  # the launcher itself is on no GPU, real or fake
        recorder.start(settings, resource, route, runtime_dir / "records")
        self._plan = plan
        self._started = monotonic_ns()
        self._attributes: dict[str, object] = {names.RUN_NAME: plan.name, names.COMMAND: redacted(command)}
        self._parent = plan.parent.span_id if plan.parent is not None else _NO_PARENT
        self._slot = recorder.open_mark(
            names.SPAN_RUN, INTERNAL, OWN_SCOPE, "", plan.context.trace_id, plan.context.span_id, self._parent,
            self._started, self._attributes, remote=plan.parent is not None,
        )  # fmt: skip
        self._oom = OomCounter(counter_files(os.getpid()))

    def close(self, ended: Ended) -> Exit:
        """Record how the command ended, and close the flight record."""
        how = self._how(ended)
        attributes = dict(self._attributes)
        attributes[names.EXIT_CAUSE] = how.cause
        if how.code is not None:
            attributes[names.PROCESS_EXIT_CODE] = how.code
        if how.signal:
            attributes[names.EXIT_SIGNAL] = how.signal
        recorder.write_span(
            self._slot, names.SPAN_RUN, INTERNAL, OWN_SCOPE, "", self._plan.context.trace_id, self._plan.context.span_id, self._parent,
            self._started, monotonic_ns(), attributes, status=STATUS_UNSET if how.clean else STATUS_ERROR,
            message="" if how.clean else str(how), trace_state=self._plan.context.trace_state, remote=self._plan.parent is not None,
        )  # fmt: skip
        recorder.stop(0)
        return how

    def _how(self, ended: Ended) -> Exit:
        if not ended.signal:
            return Exit(EXIT, ended.code)
        name = ended.signal_name()
        if name == "SIGKILL" and self._oom.claim():
            return Exit(OOM_KILL, None, name)
        return Exit(SIGNAL, None, name)
