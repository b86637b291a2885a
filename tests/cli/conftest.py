"""Runs the command line as a person does: in a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
AIOBS = [sys.executable, "-m", "aiobs.cli"]

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def environment(**more: str) -> dict[str, str]:
    """The test's environment, on whose path this aiobs is found."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def aiobs(tmp_path: Path) -> Run:
    """``aiobs(words…)`` runs the command in `tmp_path` and gives back the finished process."""

    def run(*words: str, env: dict[str, str] | None = None, **how: Any) -> subprocess.CompletedProcess[bytes]:
        how.setdefault("cwd", tmp_path)
        how.setdefault("timeout", 60)
        return subprocess.run([*AIOBS, *words], env=environment(**(env or {})), capture_output=True, check=False, **how)

    return run


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """``launch(words)`` starts the command and gives back the running process; it is ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(words: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        how.setdefault("cwd", tmp_path)
        started.append(
            subprocess.Popen([*AIOBS, *words], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
