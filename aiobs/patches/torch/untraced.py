"""Keeps PyTorch's compiler out of our own frames.

While a compiled function runs something uncompiled (a backward pass, say), Dynamo looks at every Python frame
that begins. It knows PyTorch's and the standard library's files and leaves them alone; ours it would compile,
and take the branch for "is compiling" in a wrapper that is really being run. So each code object of ours is
marked as one to leave alone. That does not stop a wrapper from being inlined into a graph, where the branch is
the right one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

from aiobs.imports import when_imported

PACKAGES = ("aiobs.patches", "aiobs.recorder", "aiobs.guard", "aiobs.wrapping", "aiobs.propagation", "aiobs.ids")


def place_all(_disable: Callable[[], None]) -> list[Callable[[], None]]:
    """Mark all code that can run within the user's program, once the compiler is imported."""
    return [when_imported("torch._dynamo", _mark)]


def _mark(dynamo: ModuleType) -> None:
    skip: Any = getattr(dynamo.eval_frame, "skip_code", None)
    if skip is None:
        return
    for name, module in list(sys.modules.items()):
        if name.startswith(PACKAGES):
            for code in _codes(vars(module), name):
                skip(code)


def _codes(namespace: Any, module: str) -> list[CodeType]:
    """Code objects of the functions defined in a module, its classes, and within these functions."""
    found: list[CodeType] = []
    for value in list(namespace.values()):
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        elif isinstance(value, property):
            found += _codes({"get": value.fget, "set": value.fset}, module)
        if isinstance(value, type) and value.__module__ == module and value is not namespace:
            found += _codes(vars(value), module)
        code = getattr(value, "__code__", None)
        if isinstance(code, CodeType):
            found += _nested(code)
    return found


def _nested(code: CodeType) -> list[CodeType]:
    found = [code]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += _nested(constant)
    return found
