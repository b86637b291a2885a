"""The process that the scene runs in: makes the machines, keeps their programs, ends with its standard input.

    aiobs run --run-dir FOLDER -- python -m aiobs.chaos.demo.stage SETUP

What the machines are is written to ``stage.json`` beside the setup once they are there, or why they cannot be made.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aiobs.chaos.demo.keeper import Keeper, Part, written
from aiobs.chaos.demo.parts import FRONT, Cast, Setup
from aiobs.chaos.testbed import Testbed
from aiobs.errors import AiobsError

ENDING_S = 8.0
BOOT_S = 8.0
"""A machine that is no node is back so long after it was lost; a node comes back with its link."""
REFUSED = 3
"""Exit code where the machines cannot be made."""


def main() -> int:
    """Be the stage until standard input ends or a signal comes."""
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    setup = Setup.read(Path(sys.argv[1]))
    folder = Path(setup.folder)

    def over() -> bool:
        return bool(told) or _ended(sys.stdin.fileno())

    with ExitStack() as stack:
        try:
            parts, what = _on_nodes(setup, stack) if setup.nodes else _here(setup)
        except AiobsError as error:
            _say(folder, {"refused": str(error)})
            return REFUSED
        _say(folder, {**what, "pid": os.getpid()})
        Keeper(folder, parts, ENDING_S).run(over)
    return 0


def _here(setup: Setup) -> tuple[list[Part], dict[str, Any]]:
    """All on this machine; each machine of the scene is a process with its programs below it.

    Without bulkheads there are no machines either: what dies together hangs below one parent.
    """
    cast = Cast(setup, dict.fromkeys([FRONT, *setup.machines], "127.0.0.1"), "lo")
    parts = cast.front()
    for index, name in enumerate(setup.machines):
        below = cast.machine(index)
        if setup.bulkheads:
            folder = Path(setup.folder)
            below = [Part(name, written(folder / f"{name}.json", folder, below), again_s=BOOT_S)]
        parts = [*below, *parts]
    return parts, {"url": cast.url, "bed": ""}


def _on_nodes(setup: Setup, stack: ExitStack) -> tuple[list[Part], dict[str, Any]]:
    """Each machine a node of a testbed, so that one can be lost, cut off, or run out of memory for itself."""
    bed = stack.enter_context(Testbed([FRONT, *setup.machines]))
    cast = Cast(setup, {node.name: node.address for node in bed.nodes}, bed.nodes[0].interface)
    parts, folder = [], Path(setup.folder)
    for node in bed.nodes:
        below = cast.front() if node.name == FRONT else cast.machine(node.index - 1)
        argv = node.command(written(folder / f"{node.name}.json", folder, below), setup.folder)
        link = f"/proc/{node.record.keeper}/net/route"
        parts.append(Part(node.name, argv, node.variables(), again_s=0.2, needs=link))
    return parts[1:] + parts[:1], {"url": cast.url, "bed": bed.name}


def _say(folder: Path, what: dict[str, Any]) -> None:
    fresh = folder / "stage.new"
    fresh.write_text(json.dumps(what), "utf-8")
    fresh.replace(folder / "stage.json")


def _ended(descriptor: int) -> bool:
    ready, _, _ = select.select([descriptor], [], [], 0)
    return bool(ready) and not os.read(descriptor, 1)


if __name__ == "__main__":
    raise SystemExit(main())
