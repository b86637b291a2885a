"""Spans around generators: current while the generator's own code runs, not while its consumer's does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any

from aiobs.recorder.hot import current_span
from aiobs.recorder.spans import Span
from aiobs.recorder.state import state


def drive(span: Span, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run `generator` to its end as one span, passing on what is sent, thrown and returned."""
    step: Any = generator.__next__
    given: tuple[Any, ...] = ()
    span.start()
    try:
        while True:
            span.token = state.foreign()[0] if state.foreign is not None else None
            token = current_span.set(span)
            try:
                item = step(*given)
            finally:
                current_span.reset(token)
            try:
                value = yield item
            except GeneratorExit:
                generator.close()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, for the generator
                step, given = generator.throw, (error,)
            else:
                step, given = generator.send, (value,)
    except StopIteration as stop:
        return stop.value
    except GeneratorExit:
        raise
    except BaseException as error:
        span.fail(error)
        raise
    finally:
        span.end()


async def drive_async(span: Span, generator: AsyncGenerator[Any, Any]) -> AsyncIterator[Any]:
    """The same for an async generator."""
    step: Any = generator.__anext__
    given: tuple[Any, ...] = ()
    span.start()
    try:
        while True:
            span.token = state.foreign()[0] if state.foreign is not None else None
            token = current_span.set(span)
            try:
                item = await step(*given)
            finally:
                try:
                    current_span.reset(token)
                except ValueError:
                    pass  # finished by another task than the one that began this turn
            try:
                value = yield item
            except GeneratorExit:
                await generator.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, for the generator
                step, given = generator.athrow, (error,)
            else:
                step, given = generator.asend, (value,)
    except StopAsyncIteration:
        return
    except GeneratorExit:
        raise
    except BaseException as error:
        span.fail(error)
        raise
    finally:
        span.end()
