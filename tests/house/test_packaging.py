"""What is shipped: every package, under its right name, and seen by the type checkers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MAPPED = {"chaos": "aiobs/chaos", "exporters": "aiobs/exporters"}
"""Top-level folders that ship inside ``aiobs``."""
SHIPPED = {**MAPPED, "examples": "aiobs/examples"}
"""With what is run by its path and never imported, and so needs no link by which type checkers would find it."""


COMPILED = {".c", ".h", ".so"}
"""What the compiled core is made from, and what it becomes; not every machine can build it."""
SOURCES_SHIPPED = ROOT / "aiobs" / "device" / "fake"
"""The fake GPU is compiled where it is used: its C sources ship."""


def tree() -> set[str]:
    """Files that ship, named as a user imports them."""
    found = set()
    for folder in ("aiobs", *SHIPPED):
        for path in (ROOT / folder).rglob("*"):  # rglob does not follow the links
            compiled = path.suffix in COMPILED and path.parent != SOURCES_SHIPPED
            if path.is_file() and "__pycache__" not in path.parts and not compiled:
                relative = path.relative_to(ROOT).as_posix()
                found.add(relative.replace(folder, SHIPPED.get(folder, folder), 1))
    return found


def shipped_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    return {name for name in names if Path(name).suffix != ".so"}


def test_compiled_core_is_made_of_all_its_sources() -> None:
    listed = {source for module in PROJECT["tool"]["setuptools"]["ext-modules"] for source in module["sources"]}
    sources = {path for path in (ROOT / "aiobs").rglob("*.c") if path.parent != SOURCES_SHIPPED}
    assert listed == {path.relative_to(ROOT).as_posix() for path in sources}


def copy_sources(to: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("aiobs", *SHIPPED):
        shutil.copytree(ROOT / folder, to / folder, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to)


def build_wheel(source: Path, to: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(to), "."]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = to.glob("*.whl")
    return wheel


def test_every_package_folder_is_listed() -> None:
    folders = {str(Path(name).parent).replace("/", ".") for name in tree() if name.endswith(".py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders


def test_links_show_the_shipped_names() -> None:
    for folder, link in MAPPED.items():
        assert (ROOT / link).is_symlink()
        assert os.readlink(ROOT / link) == f"../{folder}"


@pytest.mark.slow
def test_wheel_holds_the_tree(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    assert shipped_files(build_wheel(tmp_path, tmp_path / "dist")) == tree()


@pytest.mark.parametrize("folder", MAPPED)
def test_bare_name_is_refused(folder: str) -> None:
    tried = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert tried.returncode != 0
    assert f"import this package as {MAPPED[folder].replace('/', '.')}" in tried.stderr


def test_entry_points_load() -> None:
    wanted = PROJECT["project"]["entry-points"]
    for group, rows in wanted.items():
        installed = {point.name: point for point in entry_points(group=group)}
        for name, value in rows.items():
            assert name in installed, f"{group}:{name} is not installed"
            assert installed[name].value == value
            loaded = installed[name].load()
            assert callable(loaded) or group == "pytest11"  # a plugin is a module


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
@pytest.mark.parametrize(("text", "clean"), [("planted: int = 1\n", True), ('planted: int = "no"\n', False)])
def test_type_checkers_see_mapped_folders(checker: str, text: str, clean: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder, link in MAPPED.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
        (tmp_path / folder / "planted.py").write_text(text)
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(f"../{folder}")
    (tmp_path / "aiobs" / "__init__.py").touch()
    for folder in PROJECT["tool"]["pyright"]["include"]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    checked = subprocess.run([sys.executable, "-m", checker], cwd=tmp_path, capture_output=True, text=True)
    assert (checked.returncode == 0) is clean, checked.stdout + checked.stderr
    assert ("planted.py" in checked.stdout) is not clean
