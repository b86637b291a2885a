"""``aiobs doctor``: why does nothing arrive?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from aiobs.agent.outlets import create_exporter
from aiobs.cli.command_check import check_command
from aiobs.cli.device_check import check_devices
from aiobs.cli.endpoint_check import check_endpoint
from aiobs.cli.findings import NOTE, OK, PROBLEM, Finding
from aiobs.cli.place_check import check_installation, check_patches, check_settings
from aiobs.cli.run_plan import ENDPOINTS
from aiobs.cli.runtime_check import check_runtime
from aiobs.cli.send import endpoint_environment
from aiobs.cli.text_table import DIM, PLAIN, RED
from aiobs.errors import AiobsError
from aiobs.settings import Settings
from aiobs.telemetry import Route

_MARKS = {OK: "ok", NOTE: "note", PROBLEM: "PROBLEM"}


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog="aiobs doctor", usage="aiobs doctor [options] [-- command ...]",
        description="Look for reasons why telemetry would not arrive. Exit code 1 where there is one.",
        epilog="With a command, such as  aiobs doctor -- python train.py,  it says whether that would be recorded; it is not run.",
    )  # fmt: skip
    made.add_argument(
        "--endpoint", metavar="URL", help="check this OTLP endpoint; default: the one in OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    made.add_argument("--protocol", choices=("http/protobuf", "http/json", "grpc"))
    made.add_argument("--header", metavar="NAME=VALUE", action="append", default=[])
    made.add_argument("--json", action="store_true", help="the findings as a JSON list")
    made.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb: 1 where a problem was found, else 0."""
    options = parser().parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    found = list(examine(options, command))
    if options.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1, default=str))
    else:
        print("\n".join(render(found, color=sys.stdout.isatty())))
    return 1 if any(finding.level == PROBLEM for finding in found) else 0


def examine(options: argparse.Namespace, command: Sequence[str]) -> Iterator[Finding]:
    """Every finding, in the order in which a person would look."""
    yield from check_installation()
    settings, findings = check_settings(os.environ)
    yield from findings
    yield from check_patches(settings)
    if command:
        yield from check_command(command, os.environ)
    yield from check_runtime(settings)
    yield from check_devices(settings)
    yield from _exporters(options, settings)


def _exporters(options: argparse.Namespace, settings: Settings) -> Iterator[Finding]:
    wanted = settings.exporters
    asked = options.endpoint is not None or "otlp" in wanted or any(os.environ.get(name) for name in ENDPOINTS)
    if not asked:
        yield Finding("endpoint", OK, "no endpoint is set: runs go into run folders (aiobs-runs/) only")
    environment = dict(os.environ)
    if options.endpoint is not None or options.protocol is not None or options.header:
        signals = [name for name in ("metrics", "logs") if os.environ.get(f"OTEL_{name.upper()}_EXPORTER") == "otlp"]
        environment = endpoint_environment(options.endpoint, options.protocol, options.header, ["traces", *signals])
    for name in wanted:
        if name == "otlp":
            continue
        try:
            create_exporter(name, Route(run_id="doctor", run_dir=os.getcwd(), environment=environment)).close()
        except AiobsError as error:
            yield Finding("exporters", PROBLEM, f"{name}: {error}", "correct AIOBS_EXPORTERS")
        except OSError as error:
            yield Finding("exporters", PROBLEM, f"{name}: {error}", "see the message")
    if asked:
        yield from check_endpoint(environment)


def render(found: Sequence[Finding], *, color: bool = False) -> list[str]:
    """The findings as lines of text."""
    width = max(len(finding.topic) for finding in found)
    lines = []
    for finding in found:
        mark = f"{_MARKS[finding.level]:<7}"
        if color and finding.level != OK:
            mark = f"{RED if finding.level == PROBLEM else DIM}{mark}{PLAIN}"
        lines.append(f"{mark}  {finding.topic:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<7}  {'':<{width}}  -> {finding.remedy}")
    problems = sum(finding.level == PROBLEM for finding in found)
    lines += ["", "nothing stands in the way" if not problems else f"{problems} problem{'s' if problems > 1 else ''}"]
    return lines
