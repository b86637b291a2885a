"""Whether a fault may be injected here and into these: arming, the environment's marker, the stop file, and what
is never hit. Asked before anything is planned and again before each act."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from aiobs.errors import ArmError, PlanError
from aiobs.settings import Settings

from .identity import ProcessIdentity, ancestors
from .place import Place
from .plan import Plan
from .target import Unit

ENVIRONMENTS = ("development", "dev", "test", "testing", "ci", "staging", "stage", "sandbox")
"""Values of AIOBS_ENVIRONMENT in which faults may be injected."""
PROTECTED = frozenset({
    "sshd", "systemd", "systemd-journal", "systemd-logind", "systemd-udevd", "dbus-daemon", "containerd", "dockerd",
    "kubelet", "crio", "slurmd", "slurmctld", "init",
})  # fmt: skip
"""Names of processes that no fault may hit."""
_AGENT = (b"aiobs.agent", b"aiobs.device.sampler", b"aiobs.chaos")


def environment_name(settings: Settings) -> str:
    """The environment's name: AIOBS_ENVIRONMENT, else ``deployment.environment.name`` of the resource."""
    if settings.environment:
        return settings.environment.lower()
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() in ("deployment.environment.name", "deployment.environment"):
            return value.strip().lower()
    return ""


def require_permission(settings: Settings, place: Place, *, armed: bool = False) -> None:
    """Refuse where injecting is not allowed at all.

    Raises:
        ArmError: not armed, no marker of a test environment, or stopped.
    """
    name = environment_name(settings)
    if name not in ENVIRONMENTS:
        said = f"AIOBS_ENVIRONMENT is {name!r}" if name else "nothing says which environment this is"
        raise ArmError(f"{said}; faults are injected only where AIOBS_ENVIRONMENT is one of {', '.join(ENVIRONMENTS)}")
    if not armed and settings.chaos != "armed":
        raise ArmError("not armed: set AIOBS_CHAOS=armed, give --armed, or armed=True in code")
    if place.stop_file.exists():
        raise ArmError(f"stopped: {place.stop_file} is there; remove it to allow faults again")


def require_harmless(plan: Plan, units: Iterable[Unit], settings: Settings) -> None:
    """Refuse what no fault may hit.

    Raises:
        PlanError: the plan is held too long.
        ArmError: a unit is protected.
    """
    if plan.duration_s > settings.chaos_max_s:
        raise PlanError("duration_s", plan.duration_s, f"at most {settings.chaos_max_s:g} s (AIOBS_CHAOS_MAX_DURATION)")
    own = {os.getpid(), *ancestors(os.getpid())}
    cgroups = _own_cgroups()
    for unit in units:
        for process in unit.processes:
            if reason := _protected(process, own, settings.chaos_protect):
                raise ArmError(f"{process} must not be hit: {reason}")
        if unit.cgroup and any(_inside(own_group, unit.cgroup) for own_group in cgroups):
            raise ArmError(f"cgroup {unit.cgroup} must not be hit: whoever injects is in it")


def _protected(process: ProcessIdentity, own: set[int], names: Iterable[str]) -> str:
    if process.pid in own:
        return "it is whoever injects, or an ancestor of that"
    if process.pid == 1:
        return "it is init"
    if process.pid == 2 or process.parent() == 2:
        return "it is a thread of the kernel"
    if process.name() in PROTECTED or process.name() in names:
        return "it is protected by its name (AIOBS_CHAOS_PROTECT adds to these)"
    if os.geteuid() not in (0, process.user()):
        return f"it belongs to user {process.user()}; become root to hit it"
    return "it carries the telemetry or a fault" if is_ours(process) else ""


def is_ours(process: ProcessIdentity) -> bool:
    """Whether it is one of aiobs' own, that carries the telemetry or a fault."""
    try:
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(word == it or word.startswith(it + b".") for word in line.split(b"\0") for it in _AGENT)


def _own_cgroups() -> list[str]:
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    return [path for path in (line.split(":", 2)[2] for line in lines) if path != "/"]


def _inside(path: str, outer: str) -> bool:
    return path == outer or path.startswith(outer.rstrip("/") + "/")
