"""The public verbs for training steps."""

from __future__ import annotations

from typing import Any

from aiobs import names
from aiobs.points import point
from aiobs.recorder.steps import Phase, Step, steps


def step(number: int | None = None, /, **attributes: Any) -> Step:
    """Mark the beginning of a training step of this thread; the previous one ends here, if it has not yet.

    Use it alone at the top of the loop, or with ``with`` to end the step where the block ends. From the first
    call on, the thread's steps are marked by these calls alone and no longer found automatically.

    Args:
        number: the step's number; by default one more than the last. All ranks must use the same numbers.
        attributes: attributes of the step's span.
    """
    begun = Step(number, attributes)
    point(names.POINT_STEP, steps().number)
    return begun


def phase(name: str, /) -> Phase:
    """A named part of a step, for ``with``; make it once and use it in every step, that is the cheap way.

    Outside a step it begins one.
    """
    return Phase(name)
