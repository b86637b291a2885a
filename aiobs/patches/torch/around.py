"""A wrapper that tells this thread's loop when a function begins and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiobs.guard import swallow
from aiobs.patches.torch import loops, out_of_memory
from aiobs.patches.torch.loop import Loop
from aiobs.wrapping import Live, MakeWrapper

Disable = Callable[[], None]
"""Called when ours fails: takes the patch out."""
PLACE = "patches.torch.loop"


def around(
    disable: Disable,
    begin: Callable[[Loop, tuple[Any, ...]], int | None],
    end: Callable[[Loop, int], None],
    find: Callable[[], Loop | None] = loops.current,
) -> MakeWrapper:
    """Makes wrappers that call ``begin(loop, args)`` before a function and ``end(loop, token)`` after it.

    Args:
        begin: gives the token for `end`, or None where `end` is not to be called.
        find: gives the loop, or None where there is none to tell.
    """
    from torch.compiler import is_compiling

    def make(original: Any, live: Live) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if is_compiling() or not live:
                return original(*args, **kwargs)
            loop = token = None
            try:
                loop = find()
                if loop is not None:
                    token = begin(loop, args)
            except Exception as error:
                disable()
                swallow(PLACE, error)
            try:
                if loop is not None:
                    loop.at_step()
                return original(*args, **kwargs)
            except out_of_memory.ERRORS as error:
                out_of_memory.leaves(error)
                raise
            finally:
                if token is not None and loop is not None:
                    try:
                        end(loop, token)
                    except Exception as error:
                        disable()
                        swallow(PLACE, error)

        return call

    return make
