"""Compiles the fake library with the system's C compiler, a fifth of a second; nothing is kept for later."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from aiobs.device.fake.layout import header
from aiobs.errors import SettingError

LIBRARY = "libnvidia-ml.so.1"
"""The name under which NVML is loaded."""
SOURCES = ("state.c", "library.c", "devices.c", "readings.c", "events.c", "limits.c", "absent.c")
_TIMEOUT_S = 60
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", f"-Wl,-soname,{LIBRARY}")


def build(folder: Path, without: Sequence[str] = ()) -> Path:
    """Compile the library into `folder`.

    Args:
        folder: where to put it.
        without: functions that the library must not export, as one of an older driver.

    Raises:
        SettingError: there is no compiler, or it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        raise SettingError("CC", compiler[0], "no such C compiler, which the fake GPU needs; install gcc or clang")
    made = folder / LIBRARY
    with tempfile.TemporaryDirectory(prefix="aiobs-fake-gpu-") as place:
        work = Path(place)
        for name in (*SOURCES, "nvml.h"):
            (work / name).write_bytes(resources.files("aiobs.device.fake").joinpath(name).read_bytes())
        (work / "layout.h").write_text(header(), "utf-8")
        (work / "exports").write_text(
            f"{{ global: nvml*; local: {' '.join(f'{name};' for name in (*without, '*'))} }};", "utf-8"
        )
        command = [
            *compiler,
            *_FLAGS,
            f"-Wl,--version-script={work / 'exports'}",
            "-o",
            str(work / LIBRARY),
            *(str(work / name) for name in SOURCES),
            "-lm",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SettingError("CC", shlex.join(compiler), f"the fake GPU cannot be compiled: {error}") from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise SettingError("CC", shlex.join(compiler), f"the fake GPU cannot be compiled:\n{said}")
        # Under another name first: a process may have the one that is there loaded.
        fresh = made.with_suffix(".new")
        shutil.copy(work / LIBRARY, fresh)
        fresh.replace(made)
    return made
