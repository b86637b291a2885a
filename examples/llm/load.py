"""A load with a known schedule: when each request comes, how long its prompt and its answer are follows from a seed.

    python examples/llm/load.py --url http://localhost:8000 --requests 200 --rate 20

Prints quantiles of the time to the first token (TTFT), the mean time between an answer's tokens (TPOT) and every
single time between two tokens (ITL), as the caller sees them. Under ``aiobs run`` each request is a span "ask" with its
tenant and the replica that answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs by its path, as above
from llm import observed
from llm.api import REPLICA_HEADER, TENANT_HEADER


@dataclass
class Ask:
    """One request of a schedule. `at_s`: when it comes, after the begin. `prompt`: so many characters."""

    at_s: float
    prompt: int
    tokens: int
    tenant: str = ""


@dataclass
class Told:
    """What became of a request; times of ``perf_counter``. `error`: "" where the answer is whole."""

    began: float
    tenant: str = ""
    error: str = ""
    tokens: list[float] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        return self.tokens[0] - self.began

    @property
    def tpot(self) -> float:
        return (self.tokens[-1] - self.tokens[0]) / (len(self.tokens) - 1)

    @property
    def itl(self) -> list[float]:
        return [after - before for before, after in zip(self.tokens, self.tokens[1:], strict=False)]


def schedule(
    requests: int, rate: float, prompt: tuple[int, int], tokens: tuple[int, int], tenants: Sequence[str], seed: int
) -> list[Ask]:
    """Requests at random times, `rate` a second on average (0: all at once), their sizes between the bounds."""
    drawn, at, found = random.Random(seed), 0.0, []
    for index in range(requests):
        tenant = tenants[index % len(tenants)] if tenants else ""
        found.append(Ask(at, drawn.randint(*prompt), drawn.randint(*tokens), tenant))
        at += drawn.expovariate(rate) if rate else 0.0
    return found


async def run(
    url: str,
    asks: Sequence[Ask],
    *,
    model: str = "bytes-470k",
    limit_s: float = 300.0,
    over: asyncio.Event | None = None,
) -> list[Told]:
    """Send the requests of a schedule, each at its time, and listen to the answers; a request ends after `limit_s`.

    The load is open: a request comes at its time, whatever became of those before it. `over` ends it early, with what
    has been answered by then.
    """
    limits = httpx.Limits(max_connections=None)
    over = over or asyncio.Event()
    async with httpx.AsyncClient(base_url=url, timeout=limit_s, limits=limits, trust_env=False) as client:
        begin = time.perf_counter()
        tasks: list[asyncio.Task[Told]] = []
        for ask in asks:
            if await _is_over(over, begin + ask.at_s - time.perf_counter()):
                break
            tasks.append(asyncio.create_task(_ask(client, model, ask, limit_s)))
        ended = asyncio.create_task(over.wait())
        all_told = asyncio.gather(*tasks, return_exceptions=True)
        either: list[asyncio.Future[Any]] = [all_told, ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        all_told.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    for each in found:
        if isinstance(each, Exception):
            raise each
    return [each for each in found if isinstance(each, Told)]


async def _is_over(over: asyncio.Event, within_s: float) -> bool:
    if within_s > 0:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(over.wait(), within_s)
    return over.is_set()


async def _ask(client: httpx.AsyncClient, model: str, ask: Ask, limit_s: float) -> Told:
    told = Told(time.perf_counter(), ask.tenant)
    with observed.Asked(ask.tenant) as seen:
        try:
            await asyncio.wait_for(_listen(client, model, ask, told, seen), limit_s)
        except (asyncio.TimeoutError, httpx.TransportError) as error:
            told.error = type(error).__name__
        if told.error:
            seen.failed(told.error)
    return told


async def _listen(client: httpx.AsyncClient, model: str, ask: Ask, told: Told, seen: observed.Asked) -> None:
    body = {"model": model, "prompt": "x" * ask.prompt, "max_tokens": ask.tokens, "stream": True, "ignore_eos": True}
    headers = {TENANT_HEADER: ask.tenant} if ask.tenant else {}
    headers.update(observed.trace_headers())
    async with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
        seen.answered_by(answer.headers.get(REPLICA_HEADER, ""))
        if answer.status_code != 200:
            told.error = str(answer.status_code)
            return
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                if "error" in json.loads(line[6:]):
                    told.error = "in the stream"
                else:
                    told.tokens.append(time.perf_counter())
                    if len(told.tokens) == 1:
                        seen.first_token(told.ttft)
            elif line == "data: [DONE]":
                return
    told.error = told.error or "cut short"


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The 50th, 90th and 99th percentile and the greatest, ms."""
    ordered = sorted(values)
    if not ordered:
        return {}
    found = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1e3 for share in (50, 90, 99)}
    return {**found, "max": ordered[-1] * 1e3}


def report(told: Sequence[Told]) -> dict[str, Any]:
    """What a load has seen; durations in ms."""
    whole = [each for each in told if not each.error]
    span = max([each.tokens[-1] for each in whole], default=0.0) - min([each.began for each in told], default=0.0)
    count = sum(len(each.tokens) for each in whole)
    return {
        "requests": len(told),
        "whole": len(whole),
        "errors": dict(Counter(each.error for each in told if each.error)),
        "seconds": span,
        "tokens": count,
        "tokens_per_s": count / span if whole and span else 0.0,
        "ttft": quantiles([each.ttft for each in whole]),
        "tpot": quantiles([each.tpot for each in whole if len(each.tokens) > 1]),
        "itl": quantiles([gap for each in whole for gap in each.itl]),
        "tenants": {name: _whole_of(told, name) for name in sorted({each.tenant for each in told} - {""})},
    }


def _whole_of(told: Sequence[Told], tenant: str) -> dict[str, int]:
    its = [each for each in told if each.tenant == tenant]
    return {"requests": len(its), "whole": sum(not each.error for each in its)}


async def _until_told(url: str, asks: Sequence[Ask], limit_s: float) -> list[Told]:
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    return await run(url, asks, limit_s=limit_s, over=over)


def main() -> int:
    """Run what the command line says; 1 where not one answer was whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server (default http://127.0.0.1:8000)")
    parser.add_argument("--requests", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second; 0: all at once (default 10)")
    parser.add_argument("--prompt", type=int, nargs=2, default=(20, 200), metavar=("MIN", "MAX"), help="characters")
    parser.add_argument("--tokens", type=int, nargs=2, default=(16, 64), metavar=("MIN", "MAX"), help="of the answer")
    parser.add_argument("--tenant", action="append", default=[], help="send the requests in turn for these tenants")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default 0)")
    parser.add_argument("--seconds", type=float, default=0, help="so long, in place of --requests: rate times seconds")
    parser.add_argument(
        "--limit", type=float, default=300, help="seconds after which a request is given up (default 300)"
    )
    parser.add_argument("--json", action="store_true", help="a JSON document instead of a table")
    chosen = parser.parse_args()
    if chosen.seconds and not chosen.rate:
        parser.error("--seconds needs a --rate above 0")
    requests = round(chosen.seconds * chosen.rate) if chosen.seconds else chosen.requests
    asks = schedule(requests, chosen.rate, tuple(chosen.prompt), tuple(chosen.tokens), chosen.tenant, chosen.seed)
    found = report(asyncio.run(_until_told(chosen.url, asks, chosen.limit)))
    if chosen.json:
        print(json.dumps(found))
    else:
        wrong = "".join(f", {count} x {error}" for error, count in found["errors"].items())
        print(f"{found['whole']} of {found['requests']} answers whole{wrong}")
        for name, its in found["tenants"].items():
            print(f"  {name}: {its['whole']} of {its['requests']}")
        print(f"{found['tokens']} tokens in {found['seconds']:.2f} s: {found['tokens_per_s']:.0f} tokens/s")
        print(f"{'ms':6}{'p50':>10}{'p90':>10}{'p99':>10}{'max':>10}")
        for name in ("ttft", "tpot", "itl"):
            row = found[name]
            print(f"{name.upper():6}" + "".join(f"{row.get(key, 0):10.2f}" for key in ("p50", "p90", "p99", "max")))
    return 0 if found["whole"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
