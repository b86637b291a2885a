"""What the patches of engines have in common: how they are put in place and taken out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiobs.recorder import state
from aiobs.settings import Settings
from aiobs.wrapping import MakeWrapper, replace


def is_recorded() -> bool:
    """Whether what happens now is recorded: a record is open, or will be at the first thing to write into it (a
    forked child has none yet)."""
    return state.flight is not None or state.sleeping is not None


class EnginePatch:
    """A patch that is a list of replacements; a subclass says in :meth:`place` which.

    Attributes:
        undo: what takes the replacements out again, the last one first.
    """

    def __init__(self) -> None:
        self.undo: list[Callable[[], None]] = []

    def install(self, settings: Settings) -> None:  # noqa: ARG002 - engines have no settings of their own
        """Put everything in place; the library has been imported.

        Raises:
            PatchError: the library is not as expected; what was placed so far goes with :meth:`remove`.
        """
        if not self.undo:
            self.place()

    def remove(self) -> None:
        """Leave the library as it was."""
        while self.undo:
            self.undo.pop()()

    def place(self) -> None:
        """Put the replacements in place, with :meth:`put`."""
        raise NotImplementedError

    def put(self, owner: Any, name: str, make: MakeWrapper) -> None:
        """Replace attribute `name` of `owner`.

        Raises:
            PatchError: there is no such attribute, or it cannot be set.
        """
        self.undo.append(replace(owner, name, make))

    def put_if_there(self, owner: Any, name: str, make: MakeWrapper) -> None:
        """The same, for what only some versions of the library have."""
        if hasattr(owner, name):
            self.put(owner, name, make)
