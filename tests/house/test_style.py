"""House rules that no linter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs import names

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for name in ("aiobs", "chaos", "exporters", "examples") for path in (ROOT / name).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

BANNED = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "handler", "data", "info"}
BROAD = {"Exception", "BaseException"}
GUARDS = {"swallow", "_failed", "_say_missing"}
"""Where a fault may end; the last two are activation's own, for which importing logging is too slow."""
EXCUSED = re.compile(r"# noqa: BLE001 - \S+")
"""A broad except may stand elsewhere where its line says why."""

TELEMETRY = {
    value
    for constant in vars(names).values()
    for value in (constant if isinstance(constant, tuple) else (constant,))
    if isinstance(value, str) and "." in value
}
MODULE = re.compile(r"aiobs(\.\w+)*[.:]?(\w+)?")
NOT_TELEMETRY = {"aiobs.toml", "aiobs.log"}
"""The settings file, and the schema family of logged scalars in a flight record."""


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_module(text: str) -> bool:
    """Whether `text` is the dotted name of a module or package of ours, or of something in one."""
    if not MODULE.fullmatch(text):
        return False
    parts = text.partition(":")[0].split(".")
    return any(
        ROOT.joinpath(*parts[:length]).with_suffix(".py").is_file() or ROOT.joinpath(*parts[:length]).is_dir()
        for length in range(2, len(parts) + 1)
    )


def literals(path: Path) -> Iterator[tuple[str, int]]:
    """String constants that are not docstrings."""
    parsed = ast.parse(path.read_text("utf-8"))
    prose = {
        id(node.value)
        for node in ast.walk(parsed)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(parsed):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value, node.lineno


def test_telemetry_names_live_in_one_module() -> None:
    strays = []
    for path in SOURCES:
        if path.name in ("names.py", "names_devices.py"):
            continue
        for text, line in literals(path):
            ours = re.fullmatch(r"aiobs\.[a-z_.]+", text) and not is_module(text)
            if (ours or text in TELEMETRY) and text not in NOT_TELEMETRY:
                strays.append(f"{shown(path)}:{line}: {text!r} belongs in aiobs/names.py")
    assert not strays


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name; DataLoader is PyTorch's word, not ours."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("DataLoader", "Loader")).lower().split("_"))


def test_modules_and_classes_say_what_they_are() -> None:
    strays = []
    for path in SOURCES:
        named = [(path.stem, 1)]
        named += [
            (n.name, n.lineno) for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.ClassDef)
        ]
        strays += [f"{shown(path)}:{line}: {name}" for name, line in named if words(name) & BANNED]
    assert not strays


@pytest.mark.parametrize(("paths", "limit"), [(SOURCES, 500), (TESTS, 800)], ids=["sources", "tests"])
def test_files_are_about_one_thing(paths: list[Path], limit: int) -> None:
    sizes = {shown(path): len(path.read_text("utf-8").splitlines()) for path in paths}
    assert not {name: size for name, size in sizes.items() if size > limit}


def catches_all(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in BROAD for kind in kinds)


def passes_on(handler: ast.ExceptHandler) -> bool:
    """Whether the fault reaches the guard or is raised again."""
    for node in ast.walk(handler):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call):
            called = node.func
            name = (
                called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
            )
            if name in GUARDS:
                return True
    return False


def test_broad_excepts_end_in_the_guard() -> None:
    strays = []
    for path in SOURCES:
        text = path.read_text("utf-8")
        lines = text.splitlines()
        strays += [
            f"{shown(path)}:{node.lineno}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ExceptHandler)
            and catches_all(node)
            and not passes_on(node)
            and not EXCUSED.search(lines[node.lineno - 1])
        ]
    assert not strays


def test_test_files_have_unique_names() -> None:
    stems = [path.stem for path in TESTS if path.stem != "conftest"]
    assert sorted(stems) == sorted(set(stems))
    assert not [path for path in TESTS if path.name == "__init__.py"]
