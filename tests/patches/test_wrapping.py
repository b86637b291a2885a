"""Replacing attributes: in force, out again, and never in anybody's way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from aiobs import wrapping
from aiobs.errors import PatchError


class Base:
    def run(self, x: int, *, y: int = 1) -> int:
        """Add."""
        return x + y

    @staticmethod
    def fixed(x: int) -> int:
        return x

    @classmethod
    def made(cls) -> str:
        return cls.__name__


class Child(Base):
    pass


def doubling(original: Callable[..., Any], live: wrapping.Live) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) * 2 if live else original(*args, **kwargs)

    return wrapper


def test_own_attribute_comes_back_as_the_same_object() -> None:
    before = vars(Base)["run"]
    undo = wrapping.replace(Base, "run", doubling)
    assert Base().run(1, y=2) == 6
    assert inspect.signature(Base.run) == inspect.signature(before)
    assert (Base.run.__doc__, Base.run.__qualname__, Base.run.__module__) == ("Add.", "Base.run", __name__)
    undo()
    undo()
    assert vars(Base)["run"] is before


def test_inherited_attribute_is_deleted_again_and_follows_its_base() -> None:
    undo = wrapping.replace(Child, "run", doubling)
    assert (Child().run(1), Base().run(1)) == (4, 2)
    under = wrapping.replace(Base, "run", doubling)
    assert Child().run(1) == 8
    under()
    undo()
    assert "run" not in vars(Child) and Child().run(1) == 2


def test_static_and_class_methods_stay_such() -> None:
    before = vars(Base)["fixed"], vars(Base)["made"]
    undo = [wrapping.replace(Base, "fixed", doubling), wrapping.replace(Base, "made", doubling)]
    assert (Base.fixed(2), Base().fixed(2), Child.made()) == (4, 4, "ChildChild")
    for it in undo:
        it()
    assert (vars(Base)["fixed"], vars(Base)["made"]) == before


def test_under_somebody_elses_wrapper_ours_only_passes_on() -> None:
    before = vars(Base)["run"]
    undo = wrapping.replace(Base, "run", doubling)
    ours = vars(Base)["run"]

    def theirs(self: Base, x: int) -> Any:
        return ours(self, x) + 100

    Base.run = theirs  # type: ignore[method-assign,assignment]
    try:
        undo()
        assert vars(Base)["run"] is theirs
        assert Base().run(1) == 102
    finally:
        Base.run = before  # type: ignore[method-assign]


def test_a_function_known_in_several_modules() -> None:
    home, alias, other = ModuleType("home"), ModuleType("alias"), ModuleType("other")

    def f() -> int:
        return 3

    home.f = alias.f = f  # type: ignore[attr-defined]
    other.f = len  # type: ignore[attr-defined]
    undo = wrapping.replace(home, "f", doubling, also=(alias, other))
    assert home.f is alias.f and home.f() == 6 and other.f is len
    undo()
    assert home.f is alias.f is f


def test_what_cannot_be_replaced_says_so() -> None:
    with pytest.raises(PatchError, match=r"Base\.nothing: no such attribute"):
        wrapping.replace(Base, "nothing", doubling)
    with pytest.raises(PatchError, match=r"int\.bit_length"):
        wrapping.replace(int, "bit_length", doubling)
    with pytest.raises(PatchError, match=r"int\.bit_length"):
        wrapping.wrap(int, "bit_length", lambda wrapped, _, args, kwargs: wrapped(*args, **kwargs))


def test_the_proxy_for_rare_calls() -> None:
    before = vars(Base)["run"]

    def wrapper(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return type(instance).__name__, wrapped(*args, **kwargs)

    undo = wrapping.wrap(Base, "run", wrapper)
    assert Base().run(1) == ("Base", 2)
    assert inspect.signature(Base.run) == inspect.signature(before)
    undo()
    assert vars(Base)["run"] is before
