"""A tour of the aiobs API on a made-up job: spans, events, logged values, steps, threads, asyncio.

    aiobs run -- python examples/api_tour.py       or just       python examples/api_tour.py

Afterwards `aiobs summary` shows what was recorded.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor

import aiobs


@aiobs.trace
def prepare(rows: int) -> list[float]:
    """Each call of a decorated function is a span; spans begun inside are its children."""
    with aiobs.span("generate", rows=rows) as span:
        values = [random.Random(row).random() for row in range(rows)]
        span.set("mean", sum(values) / rows)
    aiobs.event("prepared", rows=rows)
    return values


@aiobs.trace("fetch shard")
async def fetch(number: int) -> int:
    """Coroutines that run side by side each have their own current span."""
    await asyncio.sleep(0.01 * (number + 1))
    return number


async def fetch_all() -> None:
    with aiobs.span("fetch all"):
        await asyncio.gather(*(fetch(number) for number in range(3)))


def square(value: float) -> float:
    with aiobs.span("square"):
        return value * value


def squares(values: list[float]) -> float:
    """A new thread has no current span; run its work in a copy of this thread's context to go on from here."""
    with aiobs.span("squares"), ThreadPoolExecutor(2) as pool:
        work = [pool.submit(contextvars.copy_context().run, square, value) for value in values]
        return sum(each.result() for each in work)


def main() -> None:
    aiobs.init(run_name="api-tour")
    values = prepare(1000)
    asyncio.run(fetch_all())

    squares(values[:4])

    forward = aiobs.phase("forward")
    for number in range(20):
        with aiobs.step(number):
            with forward:
                time.sleep(0.002 if number != 13 else 0.02)
            aiobs.log(loss=math.exp(-number / 10))

    try:
        with aiobs.span("risky"):
            raise ValueError("spans keep the exceptions that pass through them")
    except ValueError:
        pass
    print("done")


if __name__ == "__main__":
    main()
