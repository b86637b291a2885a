"""Which run folder a person means, and the exporters' reader of it (loaded by name: the core imports no exporter)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

from aiobs.cli.run_plan import RUNS
from aiobs.errors import NotEnabledError, RecordError
from aiobs.telemetry import Batch

SIGNALS = ("traces", "metrics", "logs")


class Damage(Protocol):
    """What a reader could not read: broken `lines`, and `metrics` of kinds that aiobs never writes."""

    lines: int
    metrics: int


def find_run(given: str | None) -> Path:
    """The run folder named `given` (a path, or the name of a folder in ``aiobs-runs``), else the newest one.

    Raises:
        RecordError: there is none.
    """
    runs = Path.cwd() / RUNS
    if given is not None:
        for folder in (Path(given), runs / given):
            if folder.is_dir() or folder.is_file():
                return folder
        raise RecordError(given, f"there is no such run folder, here or in {RUNS}/")
    found = [folder for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
    if not found:
        raise RecordError(
            str(runs), "holds no runs; name a run folder, or record one with  aiobs run -- python train.py"
        )
    return max(found, key=lambda folder: folder.stat().st_mtime_ns)


def signal_files(folder: Path, signal: str) -> list[Path]:
    """The files of `folder` that hold `signal`."""
    return [folder] if folder.is_file() else sorted(folder.glob(f"{signal}*.jsonl"))


def about(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says of the run; {} where there is none."""
    try:
        found = json.loads((folder / "run.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_batches(folder: Path) -> tuple[Iterator[tuple[str, Batch]], Damage]:
    """Every line of `folder` as (signal, batch), and a count of what could not be read.

    Raises:
        NotEnabledError: the exporters are not installed.
    """
    try:
        reader: Any = importlib.import_module("aiobs.exporters.folder")
    except ImportError as error:
        raise NotEnabledError(f"reading run folders ({error})", "all") from error
    damage = reader.Damage()
    return cast("Iterator[tuple[str, Batch]]", reader.read_batches(folder, damage)), cast(Damage, damage)
