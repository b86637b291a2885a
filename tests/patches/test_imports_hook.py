"""Post-import hooks: the callback runs once the module is there, and nobody can tell afterwards."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aiobs.imports import when_imported


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path to put modules named ``hooked_*`` in."""
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("hooked_")]:
        del sys.modules[name]
    assert sys.meta_path == before


def test_called_after_the_code_has_run(modules: Path) -> None:
    (modules / "hooked_a.py").write_text("x = 1\n")
    seen: list[Any] = []
    when_imported("hooked_a", lambda module: seen.append(module.x))
    assert seen == []
    import hooked_a  # type: ignore[import-not-found]

    assert seen == [1]
    del sys.modules["hooked_a"]
    plain = importlib.import_module("hooked_a")
    assert seen == [1]
    assert type(hooked_a.__loader__) is type(plain.__loader__)
    assert hooked_a.__spec__.loader is hooked_a.__loader__
    assert type(hooked_a.__spec__) is type(plain.__spec__)
    assert hooked_a.__file__ == plain.__file__


def test_called_at_once_for_what_is_there(modules: Path) -> None:
    seen: list[ModuleType] = []
    when_imported("json", seen.append)()
    assert seen == [sys.modules["json"]]


def test_packages_submodules_and_several_callbacks(modules: Path) -> None:
    (modules / "hooked_p").mkdir()
    (modules / "hooked_p" / "__init__.py").write_text("from hooked_p import inner\n")
    (modules / "hooked_p" / "inner.py").write_text("y = 2\n")
    seen: list[str] = []
    for name in ("hooked_p.inner", "hooked_p", "hooked_p"):
        when_imported(name, lambda module: seen.append(module.__name__))
    importlib.import_module("hooked_p")
    assert seen == ["hooked_p.inner", "hooked_p", "hooked_p"]


def test_taken_back(modules: Path) -> None:
    (modules / "hooked_b.py").write_text("")
    seen: list[ModuleType] = []
    remove = when_imported("hooked_b", seen.append)
    remove()
    remove()
    importlib.import_module("hooked_b")
    assert seen == []


def test_a_failing_import_fails_as_ever_and_may_be_tried_again(modules: Path) -> None:
    (modules / "hooked_c.py").write_text("raise LookupError('c')\n")
    seen: list[ModuleType] = []
    when_imported("hooked_c", seen.append)
    with pytest.raises(LookupError):
        importlib.import_module("hooked_c")
    assert seen == [] and "hooked_c" not in sys.modules
    (modules / "hooked_c.py").write_text("value = 3\n")
    importlib.invalidate_caches()
    Path(importlib.util.cache_from_source(str(modules / "hooked_c.py"))).unlink(missing_ok=True)
    assert importlib.import_module("hooked_c").value == 3
    assert len(seen) == 1


def test_a_missing_module_is_still_missing(modules: Path) -> None:
    remove = when_imported("hooked_nowhere", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="hooked_nowhere"):
        importlib.import_module("hooked_nowhere")
    assert importlib.util.find_spec("hooked_nowhere") is None
    remove()


def test_a_callback_that_raises_stops_nobody(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOBS_RAISE", "0")
    (modules / "hooked_d.py").write_text("")
    seen: list[ModuleType] = []
    when_imported("hooked_d", lambda _: 1 / 0)
    when_imported("hooked_d", seen.append)
    importlib.import_module("hooked_d")
    assert len(seen) == 1


def test_hooks_set_by_a_hook(modules: Path) -> None:
    (modules / "hooked_e.py").write_text("")
    (modules / "hooked_f.py").write_text("")
    seen: list[str] = []
    when_imported("hooked_e", lambda _: when_imported("hooked_f", lambda module: seen.append(module.__name__)) and None)
    importlib.import_module("hooked_e")
    importlib.import_module("hooked_f")
    assert seen == ["hooked_f"]


def test_run_as_main_and_looked_up(modules: Path) -> None:
    (modules / "hooked_g.py").write_text("def f():\n    return 4\n")
    remove = when_imported("hooked_g", lambda _: None)
    spec = importlib.util.find_spec("hooked_g")
    assert spec is not None and spec.loader is not None
    assert spec.loader.get_code("hooked_g") is not None  # type: ignore[attr-defined]
    remove()


def test_a_module_another_thread_is_importing_is_waited_for(modules: Path) -> None:
    (modules / "hooked_h.py").write_text("import time\ntime.sleep(0.3)\ndone = True\n")
    thread = threading.Thread(target=importlib.import_module, args=("hooked_h",))
    thread.start()
    while "hooked_h" not in sys.modules:
        pass
    seen: list[bool] = []
    when_imported("hooked_h", lambda module: seen.append(module.done))
    assert seen == [True]
    thread.join()


def test_a_module_that_is_halfway_through_its_import_is_waited_for(modules: Path) -> None:
    """Recording may begin, and its patches be installed, in the middle of a library's import."""
    (modules / "hooked_outer.py").write_text("import hooked_inner\nready = True\n")
    (modules / "hooked_inner.py").write_text("")
    seen: list[bool] = []

    def begin(_: object) -> None:
        when_imported("hooked_outer", lambda module: seen.append(hasattr(module, "ready")))

    when_imported("hooked_outer", lambda _: None)
    when_imported("hooked_inner", begin)
    importlib.import_module("hooked_outer")
    assert seen == [True]
