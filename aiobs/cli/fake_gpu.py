"""``aiobs run --fake-gpu``: GPUs that are not there, for demonstrations and CI."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
from collections.abc import MutableMapping
from pathlib import Path

from aiobs.device import nvml
from aiobs.device.fake import VARIABLE
from aiobs.device.fake.build import build
from aiobs.device.fake.state import FakeGpus
from aiobs.errors import SettingError
from aiobs.recorder.location import runtime_dir
from aiobs.settings import Settings

MOST = 16
_FOLDER = "fake-gpu-"
_IDLE_W, _BUSY_W, _BUSY_PERCENT, _PERIOD_S = 70.0, 400.0, 95, 8.0


def number(text: str) -> int:
    """How many, for argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of GPUs from 1 to {MOST}; before the command write --, as in  aiobs run --fake-gpu -- python train.py"
        )
    return int(text)


def prepare(count: int, settings: Settings, environment: MutableMapping[str, str]) -> tuple[Settings, Path]:
    """Make `count` fake GPUs that this run's agent will read, and no other.

    They are named in this process's environment, for the agent, and in `environment`, for the command, whose
    processes say which one they are on (:mod:`aiobs.device.fake.claim`). The command gets no library path.

    Returns:
        The settings with a runtime directory of the run's own, and that directory: an agent that serves other
        runs would not see the fake GPUs, nor should it.

    Raises:
        NotEnabledError: pynvml is not installed.
        SettingError: there is no compiler, or settings speak against it.
        RecordError: the directory cannot be made.
    """
    if settings.devices == "off":
        raise SettingError("AIOBS_DEVICES", "off", "--fake-gpu needs devices to be read; unset it")
    if settings.agent != "process":
        raise SettingError(
            "AIOBS_AGENT", settings.agent, "--fake-gpu needs the agent in a process of its own; unset it"
        )
    nvml.require()
    outer = runtime_dir(settings)
    _sweep(outer)
    settings = dataclasses.replace(settings, runtime_dir=str(outer / f"{_FOLDER}{os.getpid()}"))
    own = runtime_dir(settings)
    build(own)
    gpus = FakeGpus.create(own, count)
    for gpu in gpus.gpus:
        gpu.power_watts = _IDLE_W
        gpu.set(utilization=_BUSY_PERCENT, memory_utilization=_BUSY_PERCENT // 2, memory_used=40 << 30)
        gpu.set(temperature=55, clock_sm_mhz=1755, performance_state=0, reasons=0)
        gpu.wave(_BUSY_W, _PERIOD_S + gpu.index)
    os.environ[VARIABLE] = environment[VARIABLE] = str(gpus.path)
    return settings, own


def _sweep(outer: Path) -> None:
    """Remove what earlier such runs left, where they have ended and all of theirs was exported."""
    for folder in outer.glob(f"{_FOLDER}*"):
        pid = folder.name.removeprefix(_FOLDER)
        waiting = [path for name in ("records", "spool") for path in (folder / name).rglob("*") if path.is_file()]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and not waiting:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
