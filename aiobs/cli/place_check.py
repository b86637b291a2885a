"""Is this installation whole, which settings are in force, which libraries would be recorded?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import aiobs
from aiobs import patches
from aiobs.cli.findings import NOTE, OK, PROBLEM, Finding
from aiobs.errors import SettingError
from aiobs.recorder.compiled import core_name
from aiobs.settings import ROWS, Settings, load_settings


def check_installation() -> Iterator[Finding]:
    """Is this the aiobs that people mean?"""
    home = Path(aiobs.__file__).parent
    try:
        version = distribution("aiobs-sdk").version
        yield Finding("installation", OK, f"aiobs-sdk {version} in {home}, Python {sys.version.split()[0]}")
    except PackageNotFoundError:
        yield Finding(
            "installation",
            NOTE,
            f"aiobs runs from {home}; the distribution aiobs-sdk is not installed",
            "pip install aiobs-sdk, so that every Python of this environment finds it",
        )
    if core_name() == "compiled":
        yield Finding("recorder", OK, "the compiled core records")
    else:
        yield Finding(
            "recorder", NOTE, "spans are recorded by pure Python, which costs several times as much as the compiled core",
            "unset AIOBS_PURE, or install aiobs-sdk where a C compiler and Python's headers are",
        )  # fmt: skip
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
        found.append(
            Finding(
                "settings",
                OK,
                f"{row.name} = {shown}  (from {source})",
                facts={"name": row.name, "value": value, "source": source},
            )
        )
    if not settings.enabled:
        why = (
            "OTEL_SDK_DISABLED=true" if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" else "AIOBS_ENABLED"
        )
        found.append(Finding("settings", PROBLEM, f"recording is switched off by {why}", "unset it"))
    if environment.get("OTEL_TRACES_EXPORTER") == "none" or environment.get("OTEL_TRACES_SAMPLER") == "always_off":
        found.append(
            Finding(
                "settings",
                NOTE,
                "OTEL_TRACES_EXPORTER or OTEL_TRACES_SAMPLER switches OpenTelemetry's own traces off",
                "spans of other libraries may be missing",
            )
        )
    return settings, found or [Finding("settings", OK, "all at their defaults")]


def check_patches(settings: Settings) -> Iterator[Finding]:
    """Which libraries would be recorded."""
    if "all" in settings.patches_off:
        yield Finding(
            "patches",
            PROBLEM,
            "all patches are switched off (AIOBS_PATCHES_OFF=all)",
            "unset it; without patches only spans made in code are recorded",
        )
        return
    any_library = False
    for name, module, load in patches.known():
        if name in settings.patches_off:
            yield Finding(
                "patches", NOTE, f"{name}: switched off by AIOBS_PATCHES_OFF", facts={"patch": name, "state": "off"}
            )
            continue
        if find_spec(module.partition(".")[0]) is None:
            continue
        any_library = True
        try:
            load()
        except ImportError as error:
            yield Finding(
                "patches",
                PROBLEM,
                f"{name}: cannot be loaded: {error}",
                "reinstall aiobs-sdk",
                {"patch": name, "state": "broken"},
            )
            continue
        yield Finding(
            "patches",
            OK,
            f"{name}: in force once {module} is imported",
            facts={"patch": name, "module": module, "state": "waiting"},
        )
    if not any_library:
        yield Finding(
            "patches",
            NOTE,
            f"no library that aiobs patches is installed for {sys.executable}",
            "run doctor with the Python of your program",
        )
