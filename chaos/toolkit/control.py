"""The control: refuses a run that must not inject, holds the lease, puts the experiment on the record.

::

    "controls": [{"name": "aiobs", "provider": {"type": "python", "module": "aiobs.chaos.toolkit.control"}}]

Chaos Toolkit calls these functions by the names of their parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiobs
from aiobs import names
from aiobs.chaos.toolkit import held, require_chaoslib
from aiobs.errors import AiobsError
from aiobs.recorder import start_span

_spans: list[aiobs.Span] = []


def before_experiment_control(context: Mapping[str, Any], **_: Any) -> None:
    """Open the lease; a run that may not inject is interrupted before anything happens."""
    require_chaoslib()
    from chaoslib.exceptions import InterruptExecution

    title = str(context.get("title", ""))
    try:
        held.lease(title)
    except AiobsError as error:
        raise InterruptExecution(f"aiobs: {error}") from error
    held.undo_on_signals()
    _begin(f"{names.SPAN_EXPERIMENT}", {names.FAULT_EXPERIMENT: title})


def after_experiment_control(context: Mapping[str, Any], state: dict[str, Any], **_: Any) -> None:  # noqa: ARG001
    """Undo everything, and write what was injected into the journal under ``aiobs``."""
    residue = held.end()
    state["aiobs"] = {"injections": [held.told(it) for it in held.injections().values()], "residue": residue}
    _end(error="left behind: " + "; ".join(residue) if residue else "")


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
