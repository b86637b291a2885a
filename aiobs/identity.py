"""Who this process is: its resource, and the run, attempt and rank it belongs to, read off the environment."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiobs import ids, names, propagation
from aiobs.device.fake import VARIABLE as FAKE_GPU
from aiobs.propagation import Context
from aiobs.settings import Settings
from aiobs.telemetry import Route

VERSION = "0.1.0"
_ENDPOINT = re.compile(r"OTEL_EXPORTER_OTLP_(?:TRACES_|METRICS_|LOGS_)?ENDPOINT")
_PASSED_ON = re.compile(r"OTEL_(EXPORTER|METRIC|METRICS|LOGS)_[A-Z0-9_]+")
LAUNCHER = "AIOBS_LAUNCHER"
"""Set by ``aiobs run`` for the command: somebody else records the run's own span."""


def _whole(environment: Mapping[str, str], *variables: str) -> int | None:
    for variable in variables:
        value = environment.get(variable, "")
        if value.isdigit():
            return int(value)
    return None


def program_name() -> str:
    """The script's or module's name, without path and ending."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is not None and main.name not in ("__main__", "runpy"):
        return str(main.name).removesuffix(".__main__").rpartition(".")[2]
    script = Path(sys.argv[0] if getattr(sys, "argv", None) and sys.argv[0] not in ("", "-c") else "python")
    return script.stem if script.stem != "__main__" else script.parent.name


def resource(settings: Settings, environment: Mapping[str, str], route: Route) -> dict[str, Any]:
    """Resource attributes of this process (OpenTelemetry's names, ``aiobs.*`` for run and rank)."""
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    found: dict[str, Any] = {
        names.SERVICE_NAME: program_name(),
        names.SERVICE_INSTANCE_ID: ids.random_trace_id().hex(),
        names.HOST_NAME: host,
        names.OS_TYPE: sys.platform,
        names.PROCESS_PID: os.getpid(),
        names.PROCESS_PARENT_PID: os.getppid(),
        names.PROCESS_EXECUTABLE_NAME: Path(sys.executable).name,
        names.PROCESS_RUNTIME_NAME: sys.implementation.name,
        names.PROCESS_RUNTIME_VERSION: ".".join(map(str, sys.version_info[:3])),
        names.TELEMETRY_SDK_NAME: "aiobs",
        names.TELEMETRY_SDK_LANGUAGE: "python",
        names.TELEMETRY_SDK_VERSION: VERSION,
        names.RUN_ID: route.run_id,
        names.RUN_NAME: route.run_name,
        names.RUN_ATTEMPT: route.attempt,
        names.RUN_TRACE_ID: route.run_trace,
    }
    for pair in environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, equals, value = pair.partition("=")
        if equals and key.strip():
            found[key.strip()] = unquote(value.strip())
    if settings.service_name:
        found[names.SERVICE_NAME] = settings.service_name
    for name, variables in (
        (names.RANK, ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")),
        (names.LOCAL_RANK, ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")),
        (names.WORLD_SIZE, ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")),
        (names.NODE_RANK, ("GROUP_RANK", "SLURM_NODEID")),
    ):
        number = _whole(environment, *variables)
        if number is not None:
            found[name] = number
    if environment.get(FAKE_GPU):
        from aiobs.device.fake import claim

        found.update(claim.resource(environment))
    return found


def route(settings: Settings, environment: Mapping[str, str]) -> Route:
    """The run this process belongs to and where its telemetry goes."""
    run_id, shared = _run_id(settings, environment)
    name = settings.run_name or program_name()
    exporters = settings.exporters or (("otlp",) if any(map(_ENDPOINT.fullmatch, environment)) else ("jsonl",))
    folder = ""
    if "jsonl" in exporters or "perfetto" in exporters:
        safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "run"
        stamp = re.sub(r"[^\w.-]+", "-", run_id)[:60] if shared else time.strftime("%Y%m%d-%H%M%S")
        folder = str(Path(settings.run_dir or Path("aiobs-runs") / f"{stamp}-{safe}").absolute())
    root = run_context(run_id, environment)
    return Route(
        run_id=run_id,
        run_name=name,
        attempt=_whole(environment, "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT") or 0,
        rank=_whole(environment, "RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK") or 0,
        world_size=_whole(environment, "WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE") or 1,
        run_trace=root.trace_id.hex(),
        run_span=root.span_id.hex(),
        exporters=exporters,
        run_dir=folder,
        environment={
            **{key: value for key, value in environment.items() if _PASSED_ON.fullmatch(key)},
            "AIOBS_PROMETHEUS_ADDRESS": settings.prometheus_address,
            "AIOBS_CONSOLE_FILE": settings.console_file,
            "AIOBS_STARTED_AFTER": str(settings.started_after_s),
        },
        keep_first=settings.keep_first,
        keep_every=settings.keep_every,
        keep_slow_ratio=settings.keep_slow_ratio,
    )


def run_context(run_id: str, environment: Mapping[str, str]) -> Context:
    """Context of the run's root span: what ``aiobs run`` passed on, else computed, the same on every rank."""
    given = propagation.from_environment(environment)
    if given is not None and environment.get(LAUNCHER):
        return given
    trace = given.trace_id if given is not None else ids.run_trace_id(run_id)
    return Context(trace, ids.run_span_id(run_id), trace_state=given.trace_state if given is not None else "")


def _run_id(settings: Settings, environment: Mapping[str, str]) -> tuple[str, bool]:
    """The run's id, and whether other ranks find the same one by themselves."""
    if settings.run_id:
        return settings.run_id, True
    if environment.get("SLURM_JOB_ID"):
        return f"slurm-{environment['SLURM_JOB_ID']}-{environment.get('SLURM_STEP_ID', '0')}", True
    elastic = environment.get("TORCHELASTIC_RUN_ID", "")
    if elastic and elastic != "none":
        return f"torchrun-{elastic}", True
    if elastic or _whole(environment, "WORLD_SIZE"):
        # Static rendezvous: torchrun names every job "none". Its ranks on this host share their parent.
        from aiobs.recorder.flight import start_ticks

        place = f"{environment.get('MASTER_ADDR', '')}-{environment.get('MASTER_PORT', '')}"
        parent = (
            f"{os.getppid()}-{start_ticks(os.getppid())}"
            if _whole(environment, "GROUP_WORLD_SIZE") in (None, 1)
            else ""
        )
        return f"torchrun-{place}-{parent}", True
    return ids.random_trace_id().hex(), False
