"""Every metric the agent computes: what kind it is, in which unit, in which buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiobs import names

SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
"""Bucket bounds of a duration for which no convention names others."""


@dataclass(frozen=True)
class Instrument:
    """A metric's kind (``histogram``, ``sum``, ``updown`` or ``gauge``), unit and description; `bounds` are the
    upper bounds of a histogram's buckets."""

    kind: str
    unit: str
    description: str
    bounds: tuple[float, ...] = SECONDS


LOGGED: Final = Instrument("gauge", "1", "Logged by the program.")
"""What a name that is not listed is: a scalar the program logged."""

INSTRUMENTS: Final[dict[str, Instrument]] = {
    names.TRAIN_STEP_DURATION: Instrument("histogram", "s", "Duration of a training step."),
    names.TRAIN_PHASE_DURATION: Instrument("histogram", "s", "Time of a training step spent in one phase."),
    names.DATA_WAIT_DURATION: Instrument("histogram", "s", "One wait for the data loader."),
    names.CHECKPOINT_DURATION: Instrument("histogram", "s", "Duration of saving or loading a checkpoint."),
    names.TRAIN_STEPS: Instrument("sum", "{step}", "Training steps finished."),
    names.TRAIN_STEPS_SKIPPED: Instrument("sum", "{step}", "Training steps whose optimizer step was skipped."),
}
