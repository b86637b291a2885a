"""The outputs of an asynchronous engine, seen as they pass to whoever asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from aiobs.patches.engines.generation import Generation


class Watch(Protocol):
    """What is seen of one request while its outputs come.

    Attributes:
        request: as it is recorded.
    """

    request: Generation

    def saw(self, output: Any) -> None:
        """An output has come."""
        ...


async def watched(outputs: AsyncGenerator[Any, None], watch: Watch | None) -> AsyncGenerator[Any, None]:
    """`outputs` as they are; `watch` (None: nobody) learns of each, and of how it ended."""
    try:
        async for output in outputs:
            if watch is not None:
                watch.saw(output)
            yield output
    except (GeneratorExit, asyncio.CancelledError):
        if watch is not None:
            watch.request.aborted("disconnected")
        raise
    except BaseException as error:
        if watch is not None:
            watch.request.failed(error)
        raise
    finally:
        await outputs.aclose()
