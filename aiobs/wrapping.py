"""Putting our function in the place of another one, and taking it out again; the home of wrapt.

:func:`replace` is for hot paths: a plain closure, nothing between the caller and the wrapper. :func:`wrap` is
for rare calls, where wrapt's proxy keeps everything about the object as it was, at 0.5 µs a call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from aiobs.errors import PatchError

Live = list[bool]
"""Not empty while a replacement is in force. A wrapper whose place was taken over by somebody else's wrapper
cannot be removed any more: it asks ``if not live:`` first and then only passes on."""

MakeWrapper = Callable[[Any, Live], Callable[..., Any]]
Wrapper = Callable[[Any, Any, "tuple[Any, ...]", "dict[str, Any]"], Any]

_ABSENT: Any = object()


class Undo:
    """Takes one replacement back; calling it again does nothing.

    Attributes:
        target: dotted name of the replaced attribute, for people.
    """

    def __init__(self, owners: tuple[Any, ...], name: str, placed: object, before: object, live: Live) -> None:
        self.target = _dotted(owners[0], name)
        self._owners, self._name, self._placed, self._before, self._live = owners, name, placed, before, live

    def __call__(self) -> None:
        """Put the original back wherever ours is still on top, else turn ours into a pass-through."""
        self._live.clear()
        for owner in self._owners:
            if vars(owner).get(self._name, _ABSENT) is not self._placed:
                continue
            if self._before is _ABSENT:
                delattr(owner, self._name)
            else:
                setattr(owner, self._name, self._before)


def _dotted(owner: Any, name: str) -> str:
    return f"{getattr(owner, '__qualname__', getattr(owner, '__name__', owner))}.{name}"


def _place(owners: tuple[Any, ...], name: str, placed: object, before: object, live: Live) -> Undo:
    undo = Undo(owners, name, placed, before, live)
    try:
        for owner in owners:
            setattr(owner, name, placed)
    except (AttributeError, TypeError) as error:
        undo()
        raise PatchError(undo.target, str(error)) from error
    return undo


def replace(owner: Any, name: str, make: MakeWrapper, *, also: tuple[Any, ...] = ()) -> Undo:
    """Replace attribute `name` of `owner`, a module or class, by ``make(original, live)``.

    The wrapper gets the original's name, doc, module and signature. An inherited class attribute is not
    copied: `original` then looks it up in the bases at each call, so that later changes there stay visible,
    and undoing deletes ours. Static and class methods stay what they are.

    Args:
        also: other modules that hold the same object under the same name; those that hold another are left.

    Raises:
        PatchError: there is no such attribute, or it cannot be set.
    """
    before = vars(owner).get(name, _ABSENT)
    found = getattr(owner, name, _ABSENT)
    if found is _ABSENT:
        raise PatchError(_dotted(owner, name), "no such attribute")
    kind = type(before) if isinstance(before, (staticmethod, classmethod)) else None
    if before is _ABSENT and isinstance(owner, type):
        original = _inherited(owner, name, found)
    else:
        original = before.__func__ if isinstance(before, (staticmethod, classmethod)) else found
    live: Live = [True]
    wrapper = functools.wraps(original)(make(original, live))
    owners = (owner, *(it for it in also if vars(it).get(name, _ABSENT) is before))
    return _place(owners, name, wrapper if kind is None else kind(wrapper), before, live)


def _inherited(owner: type, name: str, found: Any) -> Callable[..., Any]:
    @functools.wraps(found)
    def original(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(owner, self), name)(*args, **kwargs)

    return original


def wrap(owner: Any, name: str, wrapper: Wrapper) -> Undo:
    """Replace attribute `name` of `owner` by a wrapt proxy; ``wrapper(wrapped, instance, args, kwargs)``.

    Raises:
        PatchError: there is no such attribute, or it cannot be set.
    """
    import wrapt  # 50 ms: only where it is used

    before = vars(owner).get(name, _ABSENT)
    original = before if before is not _ABSENT else getattr(owner, name, _ABSENT)
    if original is _ABSENT:
        raise PatchError(_dotted(owner, name), "no such attribute")
    live: Live = [True]

    def call(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return wrapper(wrapped, instance, args, kwargs) if live else wrapped(*args, **kwargs)

    return _place((owner,), name, wrapt.FunctionWrapper(original, call), before, live)
