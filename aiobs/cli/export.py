"""``aiobs export``: turn a run folder into another format."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from aiobs.cli.figures import count, size
from aiobs.cli.run_folder import find_run
from aiobs.errors import NotEnabledError, SettingError

FORMATS = {"perfetto": "opens in https://ui.perfetto.dev and chrome://tracing; each rank is a process there"}
"""Format, which is also the exporter whose ``convert`` writes it, and what it is good for."""


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(prog="aiobs export", description="Turn a run folder into another format.",
                                   epilog="; ".join(f"{name}: {text}" for name, text in FORMATS.items()))  # fmt: skip
    made.add_argument("run", help="run folder, or its name in aiobs-runs/")
    made.add_argument("out", type=Path, help="the file to write")
    made.add_argument("--to", choices=sorted(FORMATS), default="perfetto", help="default: perfetto")
    made.add_argument("--force", action="store_true", help="replace the file if it exists")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parser().parse_args(argv)
    out: Path = options.out
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise SettingError("out", str(out), "name a file in a folder that exists")
    if out.exists() and not options.force:
        raise SettingError("out", str(out), "exists already; name another file or add --force")
    try:
        convert: Callable[[Path, Path], int] = importlib.import_module(f"aiobs.exporters.{options.to}").convert
    except ImportError as error:
        raise NotEnabledError(f"the format {options.to} ({error})", "all") from error
    spans = convert(find_run(options.run), out)
    print(f"aiobs: {count(spans, 'span')} in {out} ({size(out.stat().st_size)})")
    return 0
