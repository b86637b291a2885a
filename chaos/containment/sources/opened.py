"""Telemetry by name: what a command line or an experiment says, as a live or a finished source."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from aiobs.chaos.containment.watch import Live
from aiobs.errors import PlanError

_GRPC = "grpc:"


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
