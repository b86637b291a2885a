"""``aiobs verdict``: judges a run folder, or plans how much data a verdict will need."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from aiobs.chaos.command import boundaries
from aiobs.chaos.containment.exit_codes import EXIT_CODES, exit_code, gravest
from aiobs.chaos.containment.fidelity import write_fidelity
from aiobs.chaos.containment.judging import judge_faults
from aiobs.chaos.containment.planning import plan
from aiobs.chaos.containment.report.page import write_reports
from aiobs.chaos.containment.report.waterfall import jaeger_url
from aiobs.chaos.containment.run_folder import RunFolder
from aiobs.chaos.containment.sources.opened import finished_telemetry
from aiobs.chaos.containment.spec import read_spec
from aiobs.chaos.containment.written import as_json, as_junit, as_markdown
from aiobs.errors import PlanError


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    codes = ", ".join(f"{code} {kind}" for kind, code in EXIT_CODES.items())
    made = argparse.ArgumentParser(
        prog="aiobs verdict",
        description="Did the failure stay where it should?",
        epilog=f"Exit codes: {codes}; 2 wrong usage.",
    )
    made.add_argument(
        "folder", nargs="?",
        help="a run folder, files of a Collector's file exporter, prometheus:URL or jaeger:URL",
    )  # fmt: skip
    made.add_argument("--faults", metavar="PATH", default="", help="with prometheus: or jaeger: where the faults are on record (a run folder, a journal)")  # fmt: skip
    made.add_argument("--spec", metavar="SPEC", help="boundaries and SLOs, YAML or JSON")
    made.add_argument("--fault", metavar="ID", help="judge only this fault; by default each on the record")
    made.add_argument("--plan", action="store_true", help="say how many requests a verdict needs; no folder is read")
    made.add_argument("--strata", type=int, default=1, metavar="N", help="with --plan: groups outside the boundary")
    made.add_argument(
        "--power", type=float, default=0.9, metavar="P", help="with --plan: how surely all of them hold (0.9)"
    )
    made.add_argument(
        "--rate", type=float, default=0.0, metavar="R", help="with --plan: requests a second in each group"
    )
    made.add_argument(
        "--clumping",
        type=float,
        default=1.0,
        metavar="C",
        help="with --plan: variance over that of independent requests",
    )
    made.add_argument("--suggest", action="store_true", help="say which boundaries the folder could be judged by")
    made.add_argument("--json", action="store_true", help="the verdicts as JSON, a list")
    made.add_argument("--junit", metavar="FILE", help="write JUnit XML too")
    made.add_argument("--markdown", metavar="FILE", help="write Markdown too")
    made.add_argument(
        "--fidelity", metavar="FOLDER", help="write each fault as an experiment of ai-cluster-chaos-fidelity too"
    )
    made.add_argument("--html", metavar="FILE", help="write the report too: one file, a section for each fault")
    made.add_argument("--jaeger", metavar="URL", help="a Jaeger that has the traces too: the report links to it")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parser().parse_args(list(argv))
    if options.suggest:
        return _suggest(options)
    if not options.spec:
        raise PlanError("--spec", "", "name the file with boundaries and SLOs; see docs/containment.md")
    spec = read_spec(options.spec)
    if options.plan:
        for size in plan(
            spec, options.strata, options.power, {slo.name: options.rate for slo in spec.slos}, options.clumping
        ):
            print(size.text)
        print(
            f"With that, if nothing leaks, all hold with a probability of {options.power:g}. Certified: that no group outside gets worse by its margin."
        )
        return 0
    with ExitStack() as stack:
        source = finished_telemetry(stack, _folder(options), spec, options.faults)
        faults = [fault for fault in source.faults() if options.fault in (None, fault.id)]
        if options.fault and not faults:
            raise PlanError(
                "--fault",
                options.fault,
                f"no such fault; there are {', '.join(it.id for it in source.faults()) or 'none'}",
            )
        verdicts = judge_faults(source, faults)
        if options.html:
            kind, _, url = options.folder.partition(":")
            write_reports(
                Path(options.html), verdicts, source.spec, partial(source.samples, source.spec),
                files=source.files() if isinstance(source, RunFolder) else (),
                jaeger=jaeger_url(options.jaeger or (url if kind == "jaeger" else None)),
                command=shlex.join(["aiobs", "verdict", *_again(options)]),
            )  # fmt: skip
    if options.fidelity:
        write_fidelity(Path(options.fidelity), verdicts, source.spec, options.html or options.folder)
    links = [f"{options.html}#fault-{place + 1}" if options.html else "" for place in range(len(verdicts))]
    markdown = "\n".join(map(as_markdown, verdicts, links))
    for path, text in ((options.junit, as_junit(verdicts)), (options.markdown, markdown)):
        if path:
            Path(path).write_text(text, "utf-8")
    if options.json:
        print(json.dumps([as_json(verdict) for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            print(as_markdown(verdict).replace("**", ""))
    return exit_code(gravest(verdicts))


def _again(options: argparse.Namespace) -> list[str]:
    """The words that give these verdicts again."""
    words = [options.folder, "--spec", options.spec]
    for name in ("faults", "fault"):
        words += [f"--{name}", value] if (value := getattr(options, name)) else []
    return words


def _folder(options: argparse.Namespace) -> str:
    if not options.folder:
        raise PlanError("folder", "", "name a run folder")
    return str(options.folder)


def _suggest(options: argparse.Namespace) -> int:
    return boundaries.show(Path(_folder(options)))
