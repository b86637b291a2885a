"""Patches: each makes one foreign library record through aiobs, from the moment that library is imported.

A patch's own module is imported only then, so that a process pays for the libraries it uses and no others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from aiobs.guard import swallow
from aiobs.imports import when_imported
from aiobs.patches.base import PATCH_GROUP, Patch, trigger
from aiobs.settings import Settings

Row = tuple[str, str, Callable[[], Callable[[], Patch]]]
"""Name of the patch, module whose import calls for it, loader of what makes it."""

BUILT_IN = (
    ("torch", "torch", "aiobs.patches.torch:TorchPatch"),
    ("lightning", "lightning.pytorch", "aiobs.patches.lightning:LightningPatch"),
    ("lightning", "pytorch_lightning", "aiobs.patches.lightning:PytorchLightningPatch"),
)

_waiting: dict[tuple[str, str], Callable[[], None]] = {}
_installed: dict[tuple[str, str], Patch] = {}


def known() -> Iterator[Row]:
    """Every patch there is: the built-in ones and those of other distributions (``aiobs_patch``)."""
    for name, module, path in BUILT_IN:
        yield name, module, _loader(path)
    if not _others_installed():
        return
    from importlib.metadata import entry_points

    for entry in entry_points(group=PATCH_GROUP):
        yield entry.name, trigger(entry), entry.load


def _others_installed() -> bool:
    """Whether any distribution on the path brings patches; asking ``importlib.metadata`` costs 15 ms of imports."""
    wanted = f"[{PATCH_GROUP}]".encode()
    for folder in dict.fromkeys(sys.path):
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                try:
                    if wanted in Path(folder, name, "entry_points.txt").read_bytes():
                        return True
                except OSError:
                    continue
    return False


def _loader(path: str) -> Callable[[], Callable[[], Patch]]:
    def load() -> Callable[[], Patch]:
        module, _, name = path.partition(":")
        made: Callable[[], Patch] = getattr(import_module(module), name)
        return made

    return load


def install_all(settings: Settings, *, only: str = "") -> None:
    """Install every patch (or `only` that of this name) that `settings` does not switch off: now where its library
    is imported, else then."""
    if "all" in settings.patches_off:
        return
    for name, module, load in known():
        if name in settings.patches_off or only not in ("", name):
            continue
        key = name, module
        if key not in _waiting and key not in _installed:
            _waiting[key] = when_imported(module, _installer(key, load, settings))


def _installer(
    key: tuple[str, str], load: Callable[[], Callable[[], Patch]], settings: Settings
) -> Callable[..., None]:
    def install(_module: object) -> None:
        patch = load()()
        try:
            patch.install(settings)
        except Exception as error:
            patch.remove()
            swallow(f"patches.{key[0]}", error)
            return
        _installed[key] = patch

    return install


def remove(name: str) -> None:
    """Take the patch of that name out: finish what it is recording and put every patched object back."""
    for key in [key for key in _waiting if key[0] == name]:
        _waiting.pop(key)()
    for key in [key for key in _installed if key[0] == name]:
        patch = _installed.pop(key)
        try:
            patch.remove()
        except Exception as error:
            swallow(f"patches.{name}", error)


def remove_all() -> None:
    """Take all patches out, the last first."""
    for name in reversed([*dict.fromkeys(name for name, _ in [*_waiting, *_installed])]):
        remove(name)


def active() -> list[str]:
    """Names of the patches that are in force."""
    return sorted({name for name, _ in _installed})


def pending() -> list[str]:
    """Names of the patches that wait for their library to be imported."""
    return sorted({name for name, module in _waiting if module not in sys.modules})
