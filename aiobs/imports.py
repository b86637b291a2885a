"""Post-import hooks: run a callback once a module has been imported, without importing it.

wrapt has the same, but costs 50 ms to import; here nothing but the standard library is touched, and a module
that nobody waits for is found exactly as without us.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

from aiobs.guard import swallow

Callback = Callable[[ModuleType], None]

_lock = threading.RLock()
_waiting: dict[str, list[Callback]] = {}


def when_imported(name: str, callback: Callback) -> Callable[[], None]:
    """Call `callback` with module `name` right after its code has run; at once if that is already so.

    A module that another thread is importing is waited for. Exceptions of the callback stop at
    :mod:`aiobs.guard`; the import goes on.

    Returns:
        a function that takes the callback back if it has not been called yet; safe to call twice.
    """
    with _lock:
        # While somebody waits for it, a module that is there has yet to run to its end.
        module = None if name in _waiting else sys.modules.get(name)
        if module is None:
            _waiting.setdefault(name, []).append(callback)
            if _finder not in sys.meta_path:
                sys.meta_path.insert(0, _finder)
    if module is not None:
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            importlib.import_module(name)  # returns when the thread that imports it is done
        _call(name, callback, module)

    def remove() -> None:
        with _lock:
            callbacks = _waiting.get(name, [])
            if callback in callbacks:
                callbacks.remove(callback)
                if not callbacks:
                    del _waiting[name]
            _leave_if_idle()

    return remove


def _leave_if_idle() -> None:
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def _call(name: str, callback: Callback, module: ModuleType) -> None:
    try:
        callback(module)
    except Exception as error:
        swallow(f"imports.{name}", error)


def _arrived(name: str, module: ModuleType) -> None:
    with _lock:
        callbacks = _waiting.pop(name, [])
        _leave_if_idle()
    for callback in callbacks:
        _call(name, callback, module)


class _Finder:
    """Finds nothing itself: asks the other finders and puts its own loader around the one they found.

    Not an ``importlib.abc.MetaPathFinder``: importing that costs 11 ms, and Python asks for ``find_spec`` alone.
    """

    def __init__(self) -> None:
        self._asking = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _waiting:
            return None
        # Other finders of this kind ask sys.meta_path again, which leads back here.
        asking: set[str] = self._asking.__dict__.setdefault("names", set())
        if fullname in asking:
            return None
        asking.add(fullname)
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(fullname, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = cast(Any, _Loader(spec.loader))
                    return cast(ModuleSpec, spec)
            return None
        finally:
            asking.discard(fullname)


class _Loader:
    """Stands for the real loader until the module's code is about to run, then puts it back."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self._loader, "create_module", None)
        return None if create is None else cast("ModuleType | None", create(spec))

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None and spec.loader is cast(Any, self):
            spec.loader = self._loader
        if module.__loader__ is cast(Any, self):
            module.__loader__ = self._loader
        self._loader.exec_module(module)
        # A module may put another object in its place while it runs.
        _arrived(module.__name__, sys.modules.get(module.__name__, module))


_finder: Any = _Finder()
