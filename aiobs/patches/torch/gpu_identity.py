"""Which GPUs the process uses: their ids, on its resource, so that what is read of a GPU finds its way here.

Asked of PyTorch once the program has initialised CUDA. No context is made on a GPU that has none, and no other
library is asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from aiobs import names, recorder


def torch_ids() -> list[str]:
    """Ids of the GPUs that have a context of this process, else of the current one."""
    import torch

    core: Any = torch._C
    # torch.cuda.device_count would ask NVML, which takes a lock that all processes on the GPUs share.
    used = [number for number in range(core._cuda_getDeviceCount()) if core._cuda_hasPrimaryContext(number)]
    return [gpu_id(torch.cuda.get_device_properties(number)) for number in used or [core._cuda_getDevice()]]


def gpu_id(properties: Any) -> str:
    """The id of the GPU with these properties, spelt as its driver does.

    PyTorch leaves the prefix away; a process sees instances of a GPU only where it was given them by that name.
    """
    instance = os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-")
    text = str(properties.uuid)
    return text if text.startswith(("GPU-", "MIG-")) else ("MIG-" if instance else "GPU-") + text


class Identity:
    """Says on the resource which GPUs are used."""

    def __init__(self, ids: Callable[[], list[str]] = torch_ids) -> None:
        self._ids = ids
        self._said: tuple[int, list[str]] = (-1, [])
        self._steps = 0

    def look(self) -> None:
        """Say it again where it has changed."""
        now = recorder.state.generation, self._ids()
        if now != self._said:
            self._said = now
            recorder.set_resource({names.GPU_IDS: now[1]})

    def step_ended(self) -> None:
        """Look after the first, second, fourth, … step: GPUs come into use without a word."""
        self._steps += 1
        if not self._steps & (self._steps - 1):
            self.look()
