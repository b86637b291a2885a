"""What an import costs, and where each foreign library lives."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for name in ("aiobs", "chaos", "exporters") for path in (ROOT / name).rglob("*.py"))

NEVER_AT_IMPORT = (
    "aiobs.chaos", "aiobs.exporters", "asyncio", "chaoslib", "duckdb", "google.protobuf", "grpc",
    "importlib.metadata", "opentelemetry.sdk", "pynvml", "torch", "wrapt",
)  # fmt: skip

LOWEST = {"errors.py", "names.py", "names_devices.py", "clock.py", "ids.py", "telemetry.py"}

HOMES = {
    "wrapt": ("aiobs/wrapping.py", "aiobs/imports.py"),
    "torch": ("aiobs/patches/", "aiobs/cli/doctor.py"),
    "lightning": ("aiobs/patches/",),
    "duckdb": ("aiobs/cli/",),
    "msgspec": (
        "chaos/containment/columns.py",
        "chaos/containment/otlp_json.py",
    ),
    "scipy": ("chaos/containment/",),
    "yaml": ("chaos/containment/",),
    "pynvml": ("aiobs/device/nvml.py",),
    "amdsmi": ("aiobs/device/amd.py",),
    "grpc": ("exporters/", "chaos/containment/sources/grpc_receiver.py"),
    "opentelemetry": ("aiobs/otel/", "exporters/opentelemetry_jsonl.py", "chaos/containment/sources/"),
}
"""Where a foreign library may be imported by statement: files, or folders ending in a slash."""


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno


@pytest.mark.parametrize("statement", ["import aiobs", "import aiobs; aiobs.span, aiobs.trace, aiobs.log, aiobs.step"])
def test_import_is_small(statement: str) -> None:
    loaded = modules_after(statement)
    assert not [name for name in NEVER_AT_IMPORT if name in loaded]


def test_third_party_libraries_wait_for_their_use() -> None:
    loaded = {name.partition(".")[0] for name in modules_after("import aiobs")}
    before = {name.partition(".")[0] for name in modules_after("pass")}
    assert loaded - before - set(sys.stdlib_module_names) == {"aiobs"}


def test_lowest_layer_needs_only_the_standard_library() -> None:
    strangers = []
    for path in (ROOT / "aiobs").glob("*.py"):
        if path.name in LOWEST:
            strangers += [
                f"{path.name}:{line}: {name}"
                for name, line in imports_of(path)
                if name.partition(".")[0] not in sys.stdlib_module_names and name != "aiobs.names_devices"
            ]
    assert not strangers


def test_each_foreign_library_has_one_home() -> None:
    strays = []
    for path in SOURCES:
        relative = path.relative_to(ROOT).as_posix()
        for name, line in imports_of(path):
            homes = HOMES.get(name.partition(".")[0])
            if homes is not None and not relative.startswith(homes):
                strays.append(f"{relative}:{line}: {name} belongs in {' or '.join(homes)}")
    assert not strays


def test_exporters_are_found_not_imported() -> None:
    strays = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "aiobs")
        for name, line in imports_of(path)
        if name.startswith(("aiobs.exporters", "aiobs.chaos"))
    ]
    assert not strays
