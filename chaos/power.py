"""The power limit of a GPU, through NVML, in a process of its own: a driver that hangs must not hang the injector.

``python -m aiobs.chaos.power <GPU's number> [<milliwatts>]`` says what it is, after setting it where it is told to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from aiobs.device.fake import VARIABLE, with_library
from aiobs.device.nvml import require
from aiobs.device.nvml_errors import GPU_IS_LOST, NO_PERMISSION, meaning
from aiobs.errors import FaultError, NotEnabledError

_TIMEOUT_S = 10


@dataclass(frozen=True)
class PowerLimit:
    """What NVML says, in milliwatts; `uuid` is the GPU's, so that its number may change.

    Attributes:
        reason: why nothing is known, "" where it is; `lost`: because the GPU is.
    """

    uuid: str = ""
    limit: int = 0
    least: int = 0
    most: int = 0
    reason: str = ""
    lost: bool = False


def power_limit(state: str, gpu: int, limit: int = 0) -> PowerLimit:
    """Ask for the limit of GPU number `gpu`, or set it first where `limit` is not 0.

    Args:
        state: the fake GPUs' state file, "" for real ones.
    """
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if state:
        environment = with_library({**environment, VARIABLE: state})
    command = [sys.executable, "-m", __name__, str(gpu), *([str(limit)] if limit else [])]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return PowerLimit(reason=f"the driver did not answer within {_TIMEOUT_S} s")
    try:
        return PowerLimit(**json.loads(done.stdout))
    except (ValueError, TypeError):
        said = done.stderr.strip().splitlines()
        raise FaultError("inject", f"NVML could not be asked: {said[-1] if said else 'no answer'}") from None


def _asked(gpu: int, limit: int) -> dict[str, Any]:
    try:
        nvml = require()
    except NotEnabledError as error:
        return {"reason": str(error)}
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
        if gpu >= count:
            return {"reason": f"there are {count} GPUs, numbered from 0"}
        handle = nvml.nvmlDeviceGetHandleByIndex(gpu)
        if limit:
            nvml.nvmlDeviceSetPowerManagementLimit(handle, limit)
        least, most = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        found = nvml.nvmlDeviceGetPowerManagementLimit(handle)
    except nvml.NVMLError as refused:
        remedy = ": become root" if refused.value == NO_PERMISSION else ""
        return {"reason": meaning(refused.value) + remedy, "lost": refused.value == GPU_IS_LOST}
    return {"uuid": uuid if isinstance(uuid, str) else uuid.decode(), "limit": found, "least": least, "most": most}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_asked(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
