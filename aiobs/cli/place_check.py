"""What ``aiobs doctor`` looks at on this machine: installation, settings, patches, runtime directory, a command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiobs
from aiobs import patches
from aiobs.activation.roles import LAUNCHER, WORKER, role
from aiobs.agent.election import is_led
from aiobs.agent.reader import FlightReader
from aiobs.agent.records import DAMAGED, RecordFolder
from aiobs.agent.selfstats import read_status
from aiobs.cli.agent import leader
from aiobs.cli.figures import count, size
from aiobs.cli.findings import NOTE, OK, PROBLEM, Finding
from aiobs.errors import RecordError, SettingError
from aiobs.recorder.location import runtime_dir
from aiobs.settings import ROWS, Settings, load_settings

LOG_LINES = 3


def check_installation() -> Iterator[Finding]:
    """Is this the aiobs that people mean?"""
    home = Path(aiobs.__file__).parent
    try:
        version = distribution("aiobs-sdk").version
        yield Finding("installation", OK, f"aiobs-sdk {version} in {home}, Python {sys.version.split()[0]}")
    except PackageNotFoundError:
        yield Finding("installation", NOTE, f"aiobs runs from {home}; the distribution aiobs-sdk is not installed", "pip install aiobs-sdk, so that every Python of this environment finds it")
    try:
        other = distribution("aiobs")
    except PackageNotFoundError:
        return
    yield Finding(
        "installation", PROBLEM, f"the distribution aiobs {other.version} is installed: another project, with a package of the same name",
        "pip uninstall aiobs; pip install --force-reinstall aiobs-sdk",
    )  # fmt: skip


def check_settings(environment: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """The settings in force, and where each that is not the default comes from."""
    wrong: list[SettingError] = []
    settings = load_settings(environment=environment, complain=wrong.append)
    found = [Finding("settings", PROBLEM, str(error), "correct it; the default is used meanwhile") for error in wrong]
    unset = {name: value for name, value in environment.items() if name not in {row.metadata["env"] for row in ROWS}}
    plain = load_settings(environment={"AIOBS_CONFIG": os.devnull}, complain=lambda _: None)
    by_file = load_settings(environment=unset, complain=lambda _: None)
    for row in ROWS:
        value = getattr(settings, row.name)
        variable = row.metadata["env"]
        if variable in environment and value != getattr(by_file, row.name):
            source = variable
        elif value != getattr(plain, row.name):
            source = environment.get("AIOBS_CONFIG") or "aiobs.toml"
        else:
            continue
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        found.append(Finding("settings", OK, f"{row.name} = {shown}  (from {source})", facts={"name": row.name, "value": value, "source": source}))
    if not settings.enabled:
        why = "OTEL_SDK_DISABLED=true" if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" else "AIOBS_ENABLED"
        found.append(Finding("settings", PROBLEM, f"recording is switched off by {why}", "unset it"))
    if environment.get("OTEL_TRACES_EXPORTER") == "none" or environment.get("OTEL_TRACES_SAMPLER") == "always_off":
        found.append(Finding("settings", NOTE, "OTEL_TRACES_EXPORTER or OTEL_TRACES_SAMPLER switches OpenTelemetry's own traces off", "spans of other libraries may be missing"))
    return settings, found or [Finding("settings", OK, "all at their defaults")]


def check_patches(settings: Settings) -> Iterator[Finding]:
    """Which libraries would be recorded."""
    if "all" in settings.patches_off:
        yield Finding("patches", PROBLEM, "all patches are switched off (AIOBS_PATCHES_OFF=all)", "unset it; without patches only spans made in code are recorded")
        return
    any_library = False
    for name, module, load in patches.known():
        if name in settings.patches_off:
            yield Finding("patches", NOTE, f"{name}: switched off by AIOBS_PATCHES_OFF", facts={"patch": name, "state": "off"})
            continue
        if find_spec(module.partition(".")[0]) is None:
            continue
        any_library = True
        try:
            load()
        except ImportError as error:
            yield Finding("patches", PROBLEM, f"{name}: cannot be loaded: {error}", "reinstall aiobs-sdk", {"patch": name, "state": "broken"})
            continue
        yield Finding("patches", OK, f"{name}: in force once {module} is imported", facts={"patch": name, "module": module, "state": "waiting"})
    if not any_library:
        yield Finding("patches", NOTE, f"no library that aiobs patches is installed for {sys.executable}", "run doctor with the Python of your program")


def check_runtime(settings: Settings) -> Iterator[Finding]:
    """The runtime directory: usable? what is left in it? does an agent run?"""
    try:
        directory = runtime_dir(settings)
    except RecordError as error:
        yield Finding("runtime", PROBLEM, f"nothing can be recorded: {error}", "see the message")
        return
    alive, left = _records(directory)
    led = is_led(directory)
    status = read_status(directory)
    free = shutil.disk_usage(directory).free
    yield Finding("runtime", OK if free > settings.ring_bytes * 4 else PROBLEM, f"{directory}, {size(free)} free", "" if free > settings.ring_bytes * 4 else "make room: flight records need it")
    agent = f"an agent runs (pid {leader(directory).get('pid', '?')})" if led else "no agent runs; one starts with the next recorded process"
    yield Finding("agent", OK, agent, facts={"running": led, "leader": leader(directory), "status": status})
    if settings.agent == "off" and not led:
        yield Finding("agent", PROBLEM, "AIOBS_AGENT=off and no agent runs: what is recorded stays in the runtime directory", "run `aiobs agent`, or unset AIOBS_AGENT")
    if alive:
        yield Finding("runtime", OK, f"{count(alive, 'process', 'processes')} recording now")
    if left:
        yield Finding("runtime", OK if led else PROBLEM, f"{count(left, 'flight record')} of ended processes wait to be exported", "" if led else "aiobs recover")
    damaged = [path.name for path in (directory / "records" / DAMAGED).glob("*")]
    if damaged:
        yield Finding("runtime", NOTE, f"{count(len(damaged), 'damaged flight record')} set aside in {directory / 'records' / DAMAGED}", "delete them when you do not need them")
    yield from _backlog(directory, led=led)
    yield from _last_words(directory, status)


def _records(directory: Path) -> tuple[int, int]:
    alive = left = 0
    for path in RecordFolder(directory / "records").look():
        try:
            reader = FlightReader(path)
        except RecordError:
            continue
        if reader.alive():
            alive += 1
        else:
            left += 1
        reader.close()
    return alive, left


def _backlog(directory: Path, *, led: bool) -> Iterator[Finding]:
    bodies = [path.stat().st_size for path in (directory / "spool").rglob("*.body") if path.is_file()]
    if bodies:
        text = f"{count(len(bodies), 'request')} ({size(sum(bodies))}) wait in the spool for an endpoint that does not take them"
        yield Finding("spool", NOTE if led else PROBLEM, text, "" if led else "aiobs recover, once the endpoint answers")


def _last_words(directory: Path, status: dict[str, Any]) -> Iterator[Finding]:
    for route in status.get("routes", ()):
        for name, problem in route.get("problems", {}).items():
            yield Finding("agent", PROBLEM, f"exporter {name} of run {route.get('run_id')}: {problem}", "correct the setting it names")
        for name, outlet in route.get("exporters", {}).items():
            if outlet.get("last_error"):
                yield Finding("agent", PROBLEM, f"exporter {name} of run {route.get('run_id')}: {outlet['last_error']}", "see the endpoint's findings")
        if route.get("lost"):
            yield Finding("agent", NOTE, f"run {route.get('run_id')} lost {count(route['lost'], 'record')}: the ring was overwritten before the agent read it", "raise AIOBS_RING_BYTES")
    try:
        lines = (directory / "agent" / "log").read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines[-LOG_LINES:]:
        yield Finding("agent", NOTE, f"its log says: {line}")


def check_command(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Finding]:
    """Would this command's Python be recorded?"""
    program = shutil.which(command[0], path=environment.get("PATH"))
    if program is None:
        yield Finding("command", PROBLEM, f"{command[0]}: there is no such program", "correct the command")
        return
    python = _python_of(Path(program))
    if python is None:
        yield Finding("command", NOTE, f"{command[0]} is no Python program; the Pythons that it starts are recorded if they read PYTHONPATH")
        return
    argv = [python, *command[1:]] if Path(program).name.startswith(("python", "pypy")) else [python, program, *command[1:]]
    what, why = role(argv)
    if what == WORKER:
        yield Finding("command", OK, "this command's Python is recorded once it imports PyTorch, OpenTelemetry or uses aiobs")
    elif what == LAUNCHER:
        yield Finding("command", OK, f"{why} itself is not recorded, its workers are")
    else:
        yield Finding("command", PROBLEM, f"not recorded: it is taken for {why}", "call aiobs.init() in the program")
    switches = [word for word in argv[1:] if word.startswith("-") and word[1:].isalpha() and set(word[1:]) & set("IES")]
    if switches and argv.index(switches[0]) < 4:
        yield Finding("command", PROBLEM, f"{switches[0]} keeps Python from reading PYTHONPATH or sitecustomize", "leave it out, or call aiobs.init() in the program")
    yield from _importable(python)


def _python_of(program: Path) -> str | None:
    if program.name.startswith(("python", "pypy")):
        return str(program)
    try:
        with program.open("rb") as script:
            first = script.readline(512)
    except OSError:
        return None
    if not first.startswith(b"#!") or b"python" not in first:
        return None
    words = first[2:].decode("utf-8", "replace").split()
    return shutil.which(words[-1]) if words[0].endswith("env") else words[0]


def _importable(python: str) -> Iterator[Finding]:
    asked = "import sys\ntry:\n import aiobs, os\n print(os.path.dirname(aiobs.__file__))\nexcept ImportError: print('')"
    try:
        answer = subprocess.run([python, "-c", asked], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("command", PROBLEM, f"{python} cannot be run: {error}", "correct the command")
        return
    found = answer.stdout.strip()
    if not found:
        yield Finding("command", PROBLEM, f"aiobs is not installed for {python}", f"{python} -m pip install aiobs-sdk")
    elif Path(found).resolve() != Path(aiobs.__file__).parent.resolve():
        yield Finding("command", NOTE, f"{python} imports aiobs from {found}, not from {Path(aiobs.__file__).parent}", "use one installation for both")
