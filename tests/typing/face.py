"""What type checkers see of the public face. Never run: `make types` checks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

from typing_extensions import assert_type

import aiobs

version: str = aiobs.__version__
assert_type(aiobs.init(run_name="r", keep_every=10), None)
assert_type(aiobs.current(), aiobs.Context | None)
assert_type(aiobs.event("e", n=1), None)
assert_type(aiobs.log(loss=0.5), None)
assert_type(aiobs.log({"loss": 0.5}), None)

with aiobs.span("s", n=1) as span:
    assert_type(span, aiobs.Span)
    assert_type(span.context, aiobs.Context)
    span.set("key", "value")


@aiobs.trace
def plain(x: int) -> str:
    return str(x)


@aiobs.trace("named", n=1)
async def waits(x: int) -> str:
    return str(x)


@aiobs.trace()
def yields(x: int) -> Iterator[int]:
    yield x


@aiobs.trace
async def streams(x: int) -> AsyncIterator[int]:
    yield x


assert_type(plain(1), str)
assert_type(yields(1), Iterator[int])
assert_type(streams(1), AsyncIterator[int])


async def asks() -> None:
    assert_type(await waits(1), str)


callback: Callable[[int], str] = plain

try:
    aiobs.init(keep_every=-1)
except aiobs.SettingError as error:
    assert_type(error.field, str)
    assert_type(error.remedy, str)
except aiobs.AiobsError:
    pass
