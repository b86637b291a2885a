"""What a patch is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from aiobs.settings import Settings

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PATCH_GROUP = "aiobs_patch"
"""Entry-point group of patches. The entry's name is the patch's, its value names the class or a factory that
makes it without arguments; its module must not import the library it patches at its top. An entry's name may
say which module's import calls for it, as ``name`` or, where that differs, in the entry's extras:
``name = package.module:Class [imported.module]``; the module is ``name`` by default."""


@runtime_checkable
class Patch(Protocol):
    """Makes one foreign library record through aiobs.

    ``install`` is called after the library's import, ``remove`` puts every object back that ``install`` put
    something in the place of. Both may be called again; ``remove`` without ``install`` does nothing.
    """

    def install(self, settings: Settings) -> None:
        """Start recording.

        Raises:
            PatchError: the library is not as expected; nothing is changed then.
        """

    def remove(self) -> None:
        """Stop recording and leave the library as it was found."""


def trigger(entry: EntryPoint) -> str:
    """The module whose import calls for the patch that `entry` names."""
    extras = entry.extras
    return extras[0] if extras else entry.name
