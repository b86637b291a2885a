"""The control: refuses a run that must not inject, holds the lease, puts the experiment on the record.

::

    "controls": [{"name": "aiobs", "provider": {"type": "python", "module": "aiobs.chaos.toolkit.control"}}]

With the arguments ``spec`` (a file as for ``aiobs verdict``) and ``listen`` (``HOST:PORT`` to receive OTLP at) or
``folder`` (the run folder that is being written; with ``listen`` a new one), bystanders are watched while faults are
held, the run is interrupted when one suffers, and the verdict is written into the journal; where it is not
``contained`` the run has deviated.

Chaos Toolkit calls these functions by the names of their parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aiobs
from aiobs import names
from aiobs.chaos.toolkit import held, require_chaoslib
from aiobs.chaos.toolkit.judged import Judged
from aiobs.errors import AiobsError, PlanError
from aiobs.recorder import start_span

_spans: list[aiobs.Span] = []
_judged: list[Judged] = []


def judged() -> Judged | None:
    """What the run is judged by; None where the control has been given no spec."""
    return _judged[0] if _judged else None


def before_experiment_control(
    context: Mapping[str, Any], spec: str = "", folder: str = "", listen: str | Sequence[str] = (), **_: Any
) -> None:
    """Open the lease, and the watch; a run that may not inject or cannot be judged is interrupted before anything happens."""
    require_chaoslib()
    from chaoslib.exceptions import InterruptExecution

    title = str(context.get("title", ""))
    try:
        if spec:
            _judged.append(Judged(spec, folder, [listen] if isinstance(listen, str) else listen))
        elif folder or listen:
            raise PlanError("spec", "", "name the file with boundaries and SLOs: folder and listen belong to it")
        held.lease(title, _judged[0].watch if _judged else None)
    except AiobsError as error:
        _close()
        raise InterruptExecution(f"aiobs: {error}") from error
    held.undo_on_signals()
    _begin(f"{names.SPAN_EXPERIMENT}", {names.FAULT_EXPERIMENT: title})


def after_experiment_control(context: Mapping[str, Any], state: dict[str, Any], **_: Any) -> None:  # noqa: ARG001
    """Undo everything, and write what was injected, and the verdict, into the journal under ``aiobs``."""
    residue = held.end()
    injections = list(held.injections().values())
    told = state["aiobs"] = {
        **(state.get("aiobs") or {}),
        "injections": [*map(held.told, injections)],
        "residue": residue,
    }
    if _judged:
        over = [it for it in injections if it.undone_ns and it.effective_ns]
        if over and state.get("status") not in ("interrupted", "aborted"):
            _judged[0].settle(
                max(it.undone_ns for it in over), max(it.undone_ns - it.effective_ns for it in over) / 1e9
            )
        told |= _judged[0].told()
        if told["verdict"] != "contained":
            state["deviated"] = True
        _close()
    _end(error="left behind: " + "; ".join(residue) if residue else "")


def _close() -> None:
    while _judged:
        _judged.pop().close()


def before_activity_control(context: Mapping[str, Any], **_: Any) -> None:
    """A span for each activity."""
    _begin(f"{context.get('type', 'activity')} {context.get('name', '')}", {})


def after_activity_control(context: Mapping[str, Any], state: Mapping[str, Any] | None = None, **_: Any) -> None:  # noqa: ARG001
    """End the activity's span, as the activity ended."""
    failed = state is not None and state.get("status") == "failed"
    said = (state or {}).get("exception") or ["the activity failed"]
    _end(error=str(said[-1]).strip() if failed else "")


# Not guarded: what a signal's handler raises in here (InterruptExecution) must reach Chaos Toolkit.
def _begin(name: str, attributes: Mapping[str, Any]) -> None:
    aiobs.init(service_name="chaostoolkit")
    _spans.append(start_span(name, attributes, current=True))


def _end(*, error: str) -> None:
    if not _spans:
        return
    span = _spans.pop()
    if error:
        span.fail(error)
    span.__exit__(None, None, None)
