"""Telemetry by name: what a command line or an experiment says, as a live or a finished source."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from aiobs.chaos.containment.model import Fault, Source, Spec
from aiobs.chaos.containment.sources.collector import readable
from aiobs.chaos.containment.sources.fault_line import line_of
from aiobs.chaos.containment.sources.fault_record import faults_in
from aiobs.chaos.containment.watch import Live
from aiobs.errors import PlanError

_GRPC = "grpc:"
_HOUR_NS = 3600 * 10**9
_AROUND_NS = 60 * 10**9


def live_telemetry(stack: ExitStack, listen: Sequence[str], folder: str) -> tuple[Live, tuple[str, ...]]:
    """What is received at the addresses `listen`, into `folder`; without one, what others write into `folder`.

    The receivers are closed with `stack`; the second value holds their endpoints.

    Raises:
        PlanError: neither is given, an address cannot be listened at, or the folder holds a run already.
        RecordError: there is no folder to follow.
        NotEnabledError: an extra is missing.
    """
    from aiobs.chaos.containment.sources.following import Following
    from aiobs.chaos.containment.sources.grpc_receiver import GrpcReceiver
    from aiobs.chaos.containment.sources.receiver import Receiver

    if not listen:
        if not folder:
            raise PlanError("listen", "", "give an address to receive OTLP at, or the run folder that is being written")
        return Following(Path(folder)), ()
    into = Path(folder) if folder else Path("aiobs-runs") / time.strftime("%Y%m%d-%H%M%S-watched")
    http = [it for it in listen if not it.startswith(_GRPC)]
    doors = [it.removeprefix(_GRPC) for it in listen if it.startswith(_GRPC)]
    first = stack.enter_context(Receiver(http[0] if http else "127.0.0.1:0", into))
    endpoints = [first.endpoint] if http else []
    if len(http) > 1:
        raise PlanError("listen", ", ".join(http), "one address for HTTP, and grpc:HOST:PORT for gRPC beside it")
    endpoints += [stack.enter_context(GrpcReceiver(it, first.recording)).endpoint for it in doors]
    return first, tuple(endpoints)


def finished_telemetry(stack: ExitStack, name: str, spec: Spec, faults: str = "") -> Source:
    """What `name` holds: a run folder, a file or folder of a Collector's file exporter, ``prometheus:URL`` or
    ``jaeger:URL``; closed with `stack`.

    Args:
        faults: a run folder with fault spans or a journal of Chaos Toolkit; for ``prometheus:``, and for ``jaeger:`` to
            say which time to look at (by default the last hour, or the windows of the spec).

    Raises:
        PlanError: the spec does not fit what is there.
        RecordError: it cannot be read or asked.
        NotEnabledError: an extra is missing.
    """
    from aiobs.chaos.containment.run_folder import RunFolder
    from aiobs.chaos.containment.sources.jaeger import download
    from aiobs.chaos.containment.sources.prometheus import Prometheus

    known = faults_in(Path(faults)) if faults else ()
    kind, _, url = name.partition(":")
    source: Source
    if kind == "prometheus":
        source = Prometheus(url, spec, known)
    elif kind == "jaeger":
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="aiobs-jaeger-")))
        download(url, folder, *_time(spec, known))
        _add(folder, known)
        source = RunFolder(folder, spec)
    else:
        if faults:
            raise PlanError(
                "--faults", faults, "a run folder has its own fault spans: it belongs to prometheus: or jaeger:"
            )
        source = RunFolder(readable(Path(name), stack), spec)
    stack.callback(source.close)
    return source


def _time(spec: Spec, faults: Sequence[Fault]) -> tuple[int, int]:
    if spec.windows is not None:
        return spec.windows.whole
    if not faults:
        return time.time_ns() - _HOUR_NS, time.time_ns()
    longest = max(it.undone_ns - it.effective_ns for it in faults)
    before = longest if spec.baseline_s is None else round(spec.baseline_s * 1e9)
    after = longest if spec.recovery_s is None else round(spec.recovery_s * 1e9)
    return faults[0].injected_ns - before - _AROUND_NS, max(it.undone_ns for it in faults) + after + _AROUND_NS


def _add(folder: Path, faults: Sequence[Fault]) -> None:
    """Faults on record elsewhere stand beside the traces, where these do not tell of them themselves."""
    with (folder / "traces.jsonl").open("rb") as lines:
        told = b"".join(line for line in lines if b'"fault ' in line)
    (folder / "traces-faults.jsonl").write_bytes(b"".join(line_of(it) for it in faults if it.id.encode() not in told))
