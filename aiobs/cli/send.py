"""``aiobs send``: replay a run folder to Jaeger or any OTLP endpoint."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from aiobs.agent.outlets import create_exporter
from aiobs.cli.figures import count
from aiobs.cli.run_folder import SIGNALS, find_run, read_batches
from aiobs.errors import ExportError, SettingError
from aiobs.ports import Body, Receipt, RemoteExporter
from aiobs.telemetry import Route

TRIES = 5
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog="aiobs send", description="Send a run folder, or any .jsonl file of OTLP, to an OTLP endpoint such as Jaeger.",
        epilog="Jaeger takes traces only, so that is what is sent unless --signals says otherwise.",
    )  # fmt: skip
    made.add_argument("run", nargs="?", help="run folder, its name in aiobs-runs/, or a file; default: the newest run")
    made.add_argument(
        "--endpoint", metavar="URL", help="such as http://localhost:4318; default: OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    made.add_argument("--protocol", choices=("http/protobuf", "http/json", "grpc"), help="default: http/protobuf")
    made.add_argument(
        "--header", metavar="NAME=VALUE", action="append", default=[], help="sent with every request; may be repeated"
    )
    made.add_argument(
        "--signals",
        default="traces",
        metavar="NAMES",
        help="traces, metrics, logs, separated by commas, or all; default: traces",
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Run the verb: 0 when everything was taken, else 1."""
    options = parser().parse_args(argv)
    signals = SIGNALS if options.signals == "all" else tuple(name.strip() for name in options.signals.split(","))
    if not set(signals) <= set(SIGNALS):
        raise SettingError("--signals", options.signals, "use traces, metrics, logs, separated by commas, or all")
    folder = find_run(options.run)
    environment = endpoint_environment(options.endpoint, options.protocol, options.header, signals)
    exporter = create_exporter("otlp", Route(run_id="", exporters=("otlp",), environment=environment))
    if not isinstance(exporter, RemoteExporter):
        raise SettingError("otlp", type(exporter).__name__, "this exporter does not send")
    sent: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    reasons: dict[str, None] = {}
    batches, damage = read_batches(folder)
    try:
        for signal, batch in batches:
            if signal not in signals:
                continue
            for body in exporter.encode(batch):
                receipt = _deliver(exporter, body)
                sent[body.signal] += body.items - receipt.rejected
                refused[body.signal] += receipt.rejected
                if receipt.message:
                    reasons[receipt.message] = None
    except ExportError as error:
        _say(sent, refused, list(reasons))
        print(f"aiobs: stopped: {error}", file=sys.stderr)
        return 1
    finally:
        exporter.close()
    _say(sent, refused, list(reasons))
    if damage.lines:
        print(f"aiobs: {count(damage.lines, 'line')} of the folder could not be read", file=sys.stderr)
    if not sent.total():
        print("aiobs: nothing was sent: the folder holds nothing of that kind", file=sys.stderr)
        return 1
    return 1 if refused.total() else 0


def endpoint_environment(
    endpoint: str | None, protocol: str | None, headers: Sequence[str], signals: Sequence[str]
) -> dict[str, str]:
    """The ``OTEL_*`` variables for an exporter: this process's, with what the options say instead."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
    if endpoint is not None:
        # An endpoint of the command line stands for all signals, over one that a variable names for one of them.
        environment = {name: value for name, value in environment.items() if not name.endswith("_ENDPOINT")}
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    if protocol is not None:
        environment = {name: value for name, value in environment.items() if not name.endswith("_PROTOCOL")}
        environment["OTEL_EXPORTER_OTLP_PROTOCOL"] = protocol
    if headers:
        environment["OTEL_EXPORTER_OTLP_HEADERS"] = ",".join(_header(header) for header in headers)
    for signal in ("metrics", "logs"):
        environment[f"OTEL_{signal.upper()}_EXPORTER"] = "otlp" if signal in signals else "none"
    return environment


def _header(given: str) -> str:
    from urllib.parse import quote

    name, equals, value = given.partition("=")
    if not equals or not name.strip():
        raise SettingError("--header", given.partition("=")[0], "write NAME=VALUE")
    return f"{name.strip()}={quote(value.strip())}"


def _deliver(exporter: RemoteExporter, body: Body) -> Receipt:
    """Send `body`, again after failures that may pass.

    Raises:
        ExportError: it was refused, or TRIES times not taken.
    """
    pause = FIRST_PAUSE_S
    for left in range(TRIES - 1, -1, -1):
        try:
            return exporter.send(body)
        except ExportError as error:
            if error.permanent or not left:
                raise
            time.sleep(min(error.retry_after_s or pause, LONGEST_PAUSE_S))
            pause *= 2
    raise AssertionError("unreachable")


def _say(sent: Counter[str], refused: Counter[str], reasons: list[str]) -> None:
    nouns = {"traces": "span", "metrics": "data point", "logs": "log record"}
    for signal in SIGNALS:
        if sent[signal] or refused[signal]:
            text = f"aiobs: {count(sent[signal], nouns[signal])} sent"
            print(text + (f", {refused[signal]:,} refused" if refused[signal] else ""))
    for reason in reasons[:5]:
        print(f"aiobs: the receiver says: {reason}", file=sys.stderr)
