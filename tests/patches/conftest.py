"""A recording with the patches in force, and what came of it: steps with their phases, and other spans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from aiobs import runtime
from aiobs.testing import Captured, CapturedSpan, capture


@dataclass
class SeenStep:
    """One training step and its phases."""

    span: CapturedSpan
    phases: list[CapturedSpan]

    @property
    def number(self) -> int:
        return int(self.span.attributes["aiobs.step"])

    @property
    def seconds(self) -> float:
        return self.span.duration_s

    @property
    def skipped(self) -> bool:
        return bool(self.span.attributes.get("aiobs.step.skipped", False))

    def names(self) -> list[str]:
        """Names of the phases that are in no other phase."""
        return [phase.name for phase in self.phases if phase.parent_id == self.span.span_id]

    def totals(self) -> dict[str, float]:
        """Seconds by phase, and in none as ``other``."""
        found = {"other": float(self.span.attributes["aiobs.step.other"])}
        for phase in self.phases:
            found[phase.name] = found.get(phase.name, 0.0) + phase.duration_s
        return found


class Seen:
    """What was recorded."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        spans = sorted(
            (span for span in captured.spans if span.name in ("train step", "rank step")), key=lambda it: it.start_ns
        )
        whole = [span for span in spans if not span.attributes.get("aiobs.truncated")]
        self.open_steps = len(spans) - len(whole)
        self.steps = [SeenStep(span, [it for it in captured.spans if it.trace_id == span.trace_id and it.span_id != span.span_id]) for span in whole]  # fmt: skip
        for step in self.steps:
            step.phases.sort(key=lambda it: (it.start_ns, -it.end_ns))

    def named(self, name: str) -> list[CapturedSpan]:
        return self.captured.named(name)

    def phases(self) -> list[list[str]]:
        """Names of the phases of each step."""
        return [step.names() for step in self.steps]

    @property
    def resource(self) -> dict[str, Any]:
        """What the process said it was, at last."""
        return max(self.captured.spans, key=lambda span: span.end_ns).resource


class Recording:
    """Begins recording in this process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._stack = ExitStack()
        self._captured = self._stack.enter_context(capture(**settings))

    def finish(self) -> Seen:
        """Stop, and see what there is."""
        self._stack.close()
        return Seen(self._captured)


@pytest.fixture
def record() -> Iterator[Callable[..., Recording]]:
    """Begins a recording, with settings as given; its ``finish()`` gives what was seen."""
    begun: list[Recording] = []

    def begin(**settings: Any) -> Recording:
        begun.append(Recording(settings))
        return begun[-1]

    yield begin
    runtime.shutdown()
    for recording in begun:
        recording.finish()
