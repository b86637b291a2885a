"""What training steps add to the metrics of their process: every step, kept or not."""

from __future__ import annotations

from aiobs import names
from aiobs.agent.metrics import Metrics
from aiobs.agent.steps import Step
from aiobs.telemetry import Exemplar


def see_step(metrics: Metrics, step: Step) -> None:
    """Count a finished step in."""
    metrics.observe(names.TRAIN_STEP_DURATION, step.seconds)
    for name, seconds in step.totals().items():
        metrics.observe(names.TRAIN_PHASE_DURATION, seconds, ((names.PHASE, name),))
    for phase in step.phases:
        if phase.name == names.PHASE_DATA:
            metrics.observe(names.DATA_WAIT_DURATION, phase.seconds)
    metrics.add(names.TRAIN_STEPS)
    if step.skipped:
        metrics.add(names.TRAIN_STEPS_SKIPPED)


def show_step(metrics: Metrics, step: Step, time_ns: int) -> None:
    """Point to a step that is exported; `time_ns`: its end, Unix ns."""
    metrics.exemplify(names.TRAIN_STEP_DURATION, Exemplar(step.seconds, time_ns, step.trace, step.span))
    for name, seconds in step.totals().items():
        exemplar = Exemplar(seconds, time_ns, step.trace, step.span)
        metrics.exemplify(names.TRAIN_PHASE_DURATION, exemplar, ((names.PHASE, name),))
