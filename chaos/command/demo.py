"""``aiobs demo``: faults on a service and a training job made for it, each with its verdict."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from aiobs.chaos.demo.scenarios import SCENARIOS
from aiobs.errors import AiobsError, NotEnabledError, PlanError

EPILOG = """\
It touches nothing but what it starts, and all of that ends with it. As root its machines are nodes of a testbed, with
networks and memory of their own, and the kernel's OOM killer is asked; without root it does what this user may, and
says what that does not certify.

Exit codes: 0 every verdict as expected, 1 one was not (it says which, and why), 2 it could not be played here,
130 and 143 ended by Ctrl-C and SIGTERM.
"""


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog="aiobs demo", description="Break a small LLM service and a training job in turn, and judge each failure.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument(
        "--scenario",
        choices=[*SCENARIOS, "all"],
        default="all",
        help="contained: with bulkheads; breached: without (all)",
    )
    made.add_argument("--keep", metavar="FOLDER", help="for run folders and reports; default: aiobs-runs/<time>-demo")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of load, training and faults (0)")
    made.add_argument(
        "--longer", type=float, default=1.0, metavar="TIMES", help="watch so many times as long, where a verdict is inconclusive (1)"
    )  # fmt: skip
    made.add_argument("--rate", type=float, default=24.0, metavar="R", help="requests a second (24)")
    made.add_argument("--no-testbed", action="store_true", help="make no nodes, even where they could be had")
    made.add_argument(
        "--jaeger", metavar="URL", help="a Jaeger that shall have the traces too: links to it are printed"
    )
    made.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parser().parse_args(list(argv))
    if not 0.2 <= options.longer <= 10:
        raise PlanError("--longer", options.longer, "use 0.2 to 10")
    if not 5 <= options.rate <= 200:
        raise PlanError("--rate", options.rate, "use 5 to 200 requests a second")
    chosen = [it for name, it in SCENARIOS.items() if options.scenario in (name, "all")]
    from aiobs.chaos.demo import telling

    if options.dry_run:
        telling.dry_run(chosen, options.longer)
        return 0
    for module in ("torch", "fastapi", "uvicorn", "httpx", "sklearn", "scipy", "matplotlib", "msgspec", "yaml", "rich"):
        _require(module)
    from aiobs.chaos.demo.ending import EndedError, Ending
    from aiobs.chaos.demo.run import Wishes, length_of, play
    from aiobs.chaos.demo.screen import Screen

    endpoint = telling.jaeger_endpoint(options.jaeger)
    wishes = Wishes(
        _folder(options.keep), tuple(chosen), options.longer, options.seed, False if options.no_testbed else None,
        options.rate, options.jaeger or "",
    )  # fmt: skip
    try:
        with Ending() as ending, Screen(sum(length_of(it, options.longer) for it in chosen)) as screen:
            telling.greet(screen, wishes)
            if endpoint:
                os.environ.setdefault("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            played = []
            for scenario in chosen:
                played.append(play(scenario, wishes, screen, ending))
                telling.told(screen, played[-1])
            return telling.closing(screen, wishes, played)
    except EndedError as ended:
        print("\naiobs demo: ended early; everything it had started is gone", file=sys.stderr)
        return ended.code
    except (AiobsError, OSError) as error:
        print(f"aiobs demo: {error}", file=sys.stderr)
        return 2


def _require(module: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise NotEnabledError(f"the demo needs {module}, which", "demo")


def _folder(keep: str | None) -> Path:
    """Where everything goes, made. Raises PlanError."""
    if keep:
        folder = Path(keep).absolute()
        if folder.exists() and any(folder.iterdir()):
            raise PlanError("--keep", keep, "is not empty; name a new folder")
    else:
        folder = Path.cwd() / "aiobs-runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-demo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if keep:
            raise PlanError("--keep", keep, f"cannot be made ({error.strerror})") from error
        return Path(tempfile.mkdtemp(prefix="aiobs-demo-"))
    return folder
