"""The command ``aiobs``: one module for each verb, imported only when it is asked for."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from types import ModuleType

from aiobs.errors import AiobsError

VERBS = {
    "run": "run a command and record it",
    "summary": "what happened in a run, as a table",
    "send": "send a run folder to Jaeger or any OTLP endpoint",
    "export": "turn a run folder into another format, such as a Perfetto trace",
    "jaeger": "start a local Jaeger that knows how runs and steps belong together",
    "doctor": "why does nothing arrive? checks settings, endpoint, patches and what is left behind",
    "recover": "export flight records that were left behind",
    "agent": "run, look at or stop this host's agent",
    "chaos": "inject faults that always end: list, plan, inject, status, stop, recover",
    "boundaries": "by which boundaries a run could be judged: suggest",
    "verdict": "did the failure stay where it should? boundaries and SLOs against a run folder",
    "demo": "break a small LLM service and a training job in turn, and judge each failure",
}
"""Each verb, which is also the name of its module in this package, and what it does."""

_ELSEWHERE = {
    "chaos": "aiobs.chaos.command",
    "boundaries": "aiobs.chaos.command.boundaries",
    "verdict": "aiobs.chaos.command.verdict",
    "demo": "aiobs.chaos.command.demo",
}
"""Modules of the verbs that live with what they are about."""

USAGE_ERROR = 2


def verb_module(verb: str) -> ModuleType:
    """The module of a verb, with its ``parser()`` and its ``main(argv)``."""
    return importlib.import_module(_ELSEWHERE.get(verb, f"aiobs.cli.{verb}"))


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())
    return f"""\
usage: aiobs <verb> [options]

Traces and metrics of AI training and serving that survive the death of the process; faults, and what they reached.

{verbs}

  aiobs run -- python train.py        the shortest way to begin
  aiobs <verb> --help                 the options of a verb
  aiobs --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (``sys.argv[1:]`` by default) and give back its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no "µ" still gets the rest
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0 if words else USAGE_ERROR
    if words[0] in ("-V", "--version"):
        from importlib.metadata import PackageNotFoundError, version

        try:
            print("aiobs", version("aiobs-sdk"))
        except PackageNotFoundError:
            print("aiobs (not installed: running from its source tree)")
        return 0
    verb = words[0]
    if verb not in VERBS:
        return _refuse(f"there is no verb {verb!r}; there are {', '.join(VERBS)}")
    try:
        code: int = verb_module(verb).main(words[1:])
        # A reader that has gone away (``aiobs summary | head``) shows up here, not at interpreter exit.
        sys.stdout.flush()
    except AiobsError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        return _hang_up()
    except KeyboardInterrupt:
        return 130
    return code


def _refuse(message: str) -> int:
    print(f"aiobs: {message}", file=sys.stderr)
    return USAGE_ERROR


def _hang_up() -> int:
    import os

    # The interpreter flushes stdout once more at its exit, which would complain again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141


if __name__ == "__main__":
    sys.exit(main())
