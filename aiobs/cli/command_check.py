"""Would a command's Python be recorded?"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import aiobs
from aiobs.activation.roles import LAUNCHER, WORKER, role
from aiobs.cli.findings import NOTE, OK, PROBLEM, Finding


def check_command(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Finding]:
    """Would this command's Python be recorded?"""
    program = shutil.which(command[0], path=environment.get("PATH"))
    if program is None:
        yield Finding("command", PROBLEM, f"{command[0]}: there is no such program", "correct the command")
        return
    python = _python_of(Path(program))
    if python is None:
        yield Finding(
            "command",
            NOTE,
            f"{command[0]} is no Python program; the Pythons that it starts are recorded if they read PYTHONPATH",
        )
        return
    argv = (
        [python, *command[1:]] if Path(program).name.startswith(("python", "pypy")) else [python, program, *command[1:]]
    )
    what, why = role(argv)
    if what == WORKER:
        yield Finding(
            "command", OK, "this command's Python is recorded once it imports PyTorch, OpenTelemetry or uses aiobs"
        )
    elif what == LAUNCHER:
        yield Finding("command", OK, f"{why} itself is not recorded, its workers are")
    else:
        yield Finding("command", PROBLEM, f"not recorded: it is taken for {why}", "call aiobs.init() in the program")
    switches = [word for word in argv[1:] if word.startswith("-") and word[1:].isalpha() and set(word[1:]) & set("IES")]
    if switches and argv.index(switches[0]) < 4:
        yield Finding(
            "command",
            PROBLEM,
            f"{switches[0]} keeps Python from reading PYTHONPATH or sitecustomize",
            "leave it out, or call aiobs.init() in the program",
        )
    yield from _importable(python)


def _python_of(program: Path) -> str | None:
    if program.name.startswith(("python", "pypy")):
        return str(program)
    try:
        with program.open("rb") as script:
            first = script.readline(512)
    except OSError:
        return None
    if not first.startswith(b"#!") or b"python" not in first:
        return None
    words = first[2:].decode("utf-8", "replace").split()
    return shutil.which(words[-1]) if words[0].endswith("env") else words[0]


def _importable(python: str) -> Iterator[Finding]:
    asked = (
        "import sys\ntry:\n import aiobs, os\n print(os.path.dirname(aiobs.__file__))\nexcept ImportError: print('')"
    )
    try:
        answer = subprocess.run([python, "-c", asked], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("command", PROBLEM, f"{python} cannot be run: {error}", "correct the command")
        return
    found = answer.stdout.strip()
    if not found:
        yield Finding("command", PROBLEM, f"aiobs is not installed for {python}", f"{python} -m pip install aiobs-sdk")
    elif Path(found).resolve() != Path(aiobs.__file__).parent.resolve():
        yield Finding(
            "command",
            NOTE,
            f"{python} imports aiobs from {found}, not from {Path(aiobs.__file__).parent}",
            "use one installation for both",
        )
