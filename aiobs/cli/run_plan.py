"""What ``aiobs run`` decides before it starts anything: the run's identity, folder, and the child's environment."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiobs import ids, propagation
from aiobs.activation import FOLDER, LOG_VARIABLE, TRIGGERS_VARIABLE
from aiobs.errors import SettingError
from aiobs.identity import LAUNCHER
from aiobs.propagation import Context

ENDPOINTS = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_", "LOGS_"))
RUNS = "aiobs-runs"
"""Folder of run folders in the working directory."""
_INTERPRETER = re.compile(
    r"(python|pypy)[\d.]*|env|bash|sh|dash|zsh|torchrun|accelerate|uv|poetry|time|nice|nohup|srun|mpirun"
)
_SCRIPT = re.compile(r"[^=]*\.(py|pyz|sh|ipynb)")


@dataclass(frozen=True)
class Plan:
    """One run of one command.

    Attributes:
        name, run_id: of the run.
        context: of the span that stands for this launcher; its children continue it.
        parent: what the caller put the run into, or None.
        root: whether that span is the run's root; false for the launchers of further nodes of one job.
        folder: the run folder, or None.
        log: where each Python of the command says what became of it (:mod:`aiobs.activation.notes`).
        environment: what the command will be started with.
    """

    name: str
    run_id: str
    context: Context
    parent: Context | None
    root: bool
    folder: Path | None
    log: Path
    environment: Mapping[str, str]


def command_name(command: Sequence[str]) -> str:
    """A name for the run of `command`: its script's, its module's, else its program's."""
    words = list(command)
    for position, word in enumerate(words[:-1]):
        if word == "-c":
            return _safe(Path(words[0]).name)
        if (
            word == "-m"
            and re.fullmatch(r"[\w.]+", words[position + 1])
            and not words[position + 1].startswith("torch.distributed")
        ):
            return words[position + 1].removesuffix(".__main__").rpartition(".")[2]
    for word in words:
        if _SCRIPT.fullmatch(word):
            return _safe(Path(word).stem)
    named = [word for word in words if not word.startswith("-") and not _INTERPRETER.fullmatch(Path(word).name)]
    return _safe(Path(named[0]).stem if named else Path(words[0]).name)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "run"


def make_folder(given: str, name: str) -> Path:
    """The run folder, made: `given`, else ``aiobs-runs/<time>-<name>`` in the working directory.

    Raises:
        SettingError: it cannot be made.
    """
    base = Path(given).absolute() if given else Path.cwd() / RUNS / f"{time.strftime('%Y%m%d-%H%M%S')}-{_safe(name)}"
    try:
        if given:
            base.mkdir(parents=True, exist_ok=True)
            return base
        base.parent.mkdir(exist_ok=True)
        for number in range(1, 1000):
            folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise SettingError(
            "--run-dir", str(base), f"cannot be made ({error.strerror}); name another folder, or use --no-folder"
        ) from error
    raise SettingError("--run-dir", str(base), "exists a thousand times")


def exporters(chosen: Sequence[str], environment: Mapping[str, str], *, folder: bool) -> tuple[str, ...]:
    """The exporters of the run: the chosen ones, else otlp where an endpoint is set; and jsonl for the folder.

    Raises:
        SettingError: nothing is left.
    """
    names = list(chosen) or (["otlp"] if any(environment.get(name) for name in ENDPOINTS) else [])
    if folder and "jsonl" not in names:
        names.append("jsonl")
    if not folder:
        names = [name for name in names if name != "jsonl"]
    if not names:
        raise SettingError("--no-folder", True, "leaves nowhere to write to; add --endpoint URL or --exporter NAME")
    return tuple(dict.fromkeys(names))


def identity(environment: Mapping[str, str], run_id: str) -> tuple[Context, Context | None, bool]:
    """The launcher's own span, its parent, and whether it is the run's root.

    A job on several nodes has one launcher on each; they share the run id (set ``AIOBS_RUN_ID``, or run under
    Slurm), and those of further nodes stand below the first one's.
    """
    parent = propagation.from_environment(environment)
    trace = parent.trace_id if parent is not None else ids.run_trace_id(run_id)
    state = parent.trace_state if parent is not None else ""
    root = Context(trace, ids.run_span_id(run_id), parent is None or parent.sampled, trace_state=state)
    if _node(environment) == 0:
        return root, parent, True
    return Context(trace, ids.random_span_id(), root.sampled, trace_state=state), root, False


def _node(environment: Mapping[str, str]) -> int:
    for variable in ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "NODE_RANK", "GROUP_RANK"):
        value = environment.get(variable, "")
        if value.isdigit():
            return int(value)
    return 0


def new_run_id(environment: Mapping[str, str]) -> str:
    """The job's id where launchers of several nodes must agree on one, else a random one."""
    given = environment.get("AIOBS_RUN_ID")
    if given:
        return given
    job = environment.get("SLURM_JOB_ID")
    if job and not environment.get(LAUNCHER):
        return f"slurm-{job}-{environment.get('SLURM_STEP_ID', '0')}-{environment.get('SLURM_RESTART_COUNT', '0')}"
    return ids.random_trace_id().hex()


def original_environment() -> dict[str, str]:
    """The environment as the caller gave it.

    In the C locale Python sets LC_CTYPE for itself and whatever it starts (PEP 538); the command must not see that.
    """
    environment = dict(os.environ)
    if "LC_CTYPE" in environment and environment["LC_CTYPE"] in ("C.UTF-8", "C.utf8", "UTF-8"):
        try:
            given = Path("/proc/self/environ").read_bytes().split(b"\0")
        except OSError:
            return environment
        if not any(entry.startswith(b"LC_CTYPE=") for entry in given):
            del environment["LC_CTYPE"]
    return environment


def child_environment(
    base: Mapping[str, str], *, context: Context, settings: Mapping[str, str], log: Path, triggers: Sequence[str]
) -> dict[str, str]:
    """The command's environment: the caller's, the run's identity, and our folder first on ``PYTHONPATH``."""
    environment = propagation.child_environment(context, base)
    environment.update(settings)
    environment[LOG_VARIABLE] = str(log)
    environment[LAUNCHER] = str(os.getpid())
    environment[TRIGGERS_VARIABLE] = ",".join(triggers)
    path = environment.get("PYTHONPATH", "")
    entries = [entry for entry in path.split(os.pathsep) if entry != FOLDER] if path else []
    environment["PYTHONPATH"] = os.pathsep.join([FOLDER, *entries])
    return environment
