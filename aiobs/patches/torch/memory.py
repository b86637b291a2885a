"""What PyTorch's allocator holds of a GPU, at the end of training steps.

One reading makes a dictionary of some hundred numbers. So it is taken at the steps that are kept by their number,
and at others as long as reading takes no more than a thousandth of the time. Peaks are read, never reset: they are
the program's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiobs import names, recorder
from aiobs.clock import monotonic_ns

PATIENCE = 1000
"""A reading of a step not known to be kept waits for so many times as long as the last one took."""

Stats = Callable[[], "dict[str, Any]"]


def current_stats() -> dict[str, Any]:
    """The allocator's own numbers for the current GPU, nested as it has them."""
    import torch

    core: Any = torch._C
    found: dict[str, Any] = core._cuda_memoryStats(core._cuda_getDevice())
    return found


def figures(stats: dict[str, Any]) -> dict[str, Any]:
    """The attributes made of them."""
    allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
    return {
        names.ALLOCATOR_ALLOCATED: int(allocated["current"]),
        names.ALLOCATOR_RESERVED: int(reserved["current"]),
        names.ALLOCATOR_PEAK: int(allocated["peak"]),
        names.ALLOCATOR_RETRIES: int(stats.get("num_alloc_retries", 0)),
    }


class Memory:
    """Readings for the steps of one thread."""

    def __init__(self, stats: Stats = current_stats, clock: Callable[[], int] = monotonic_ns) -> None:
        self._stats, self._clock = stats, clock
        self._not_before_ns = 0

    def step_ends(self, steps: recorder.Steps) -> None:
        """Put the allocator's figures on the open step, where it is worth it."""
        now = self._clock()
        if now < self._not_before_ns and not _kept(steps.number):
            return
        steps.set_all(figures(self._stats()))
        done = self._clock()
        self._not_before_ns = done + PATIENCE * (done - now)


def _kept(number: int) -> bool:
    """Whether a step is kept for its number; the agent has the same rule."""
    route = recorder.state.route
    return number < route.keep_first or bool(route.keep_every and number % route.keep_every == 0)


def keep_history(entries: int) -> Callable[[], None]:
    """Have the allocator remember its last `entries` allocations with their stack traces; returns what ends that."""
    import torch

    memory: Any = torch.cuda.memory
    memory._record_memory_history(max_entries=entries)
    return lambda: memory._record_memory_history(enabled=None)
