"""Engine steps: who shared which pass of the model, and what each request owes of its time.

A step's duration is divided among the requests in it by *cost*: a token that was prefilled costs 1, a token that
was decoded `decode_cost` (1 by default: every token run through the model costs the same). Where nobody has a
cost, all pay alike. Shares are whole nanoseconds, cut so that they add up to the step's duration exactly.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from types import TracebackType
from typing import Any, Final

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.errors import SettingError
from aiobs.guard import guarded, swallow
from aiobs.recorder import start_span
from aiobs.serving.engine_request import EngineRequest

MEDIAN_OF: Final = 101
"""Steps the running median is of."""
MEDIAN_FROM: Final = 8
"""Steps that must have been seen before one can count as slow."""
SLOW_SPACING: Final = 10
"""At most one step in so many is kept for being slow."""
LISTED: Final = 512
"""Requests a step's span lists; the others take part in it all the same."""


class EngineSteps:
    """The steps of one engine; use one object from one thread.

    ::

        steps = EngineSteps("my engine")
        with steps.step(running=len(batch), waiting=len(queue), kv_usage=0.4) as step:
            for request in batch:
                step.share(request, decode_tokens=1)
            run_the_model(batch)
    """

    def __init__(
        self,
        engine: str,
        *,
        keep_first: int = 10,
        keep_every: int = 100,
        slow_ratio: float = 2.0,
        decode_cost: float = 1.0,
    ) -> None:
        """Every step counts in metrics and in its requests' shares; the rules say which are kept as spans.

        Args:
            engine: name of the engine, on every step.
            keep_first: keep the first so many.
            keep_every: keep every so many-th by number; 0: none by this rule.
            slow_ratio: keep a step slower than so many times the running median of its kind (those that prefill
                and those that only decode are two kinds), at most one step in ten.
            decode_cost: cost of a decoded token, that of a prefilled one being 1.

        Raises:
            SettingError: a number is out of its range.
        """
        for field, value, low in (
            ("keep_first", keep_first, 0),
            ("keep_every", keep_every, 0),
            ("slow_ratio", slow_ratio, 1),
            ("decode_cost", decode_cost, 0),
        ):
            if not value >= low:
                raise SettingError(field, value, f"use a number, at least {low}")
        self.engine = engine
        self.number = 0
        self._keep_first, self._keep_every, self._slow_ratio = keep_first, keep_every, slow_ratio
        self._decode_cost = decode_cost
        self._medians = (_Median(), _Median())
        self._slow_again = 0

    def step(
        self, *, running: int = 0, waiting: int = 0, kv_usage: float | None = None, now_ns: int | None = None
    ) -> EngineStep:
        """Begin a step, for ``with``.

        Args:
            running: requests the engine has admitted. waiting: those in its queue.
            kv_usage: part of the KV cache in use, 0 to 1.
            now_ns: when it begins, monotonic ns; now by default.
        """
        number, self.number = self.number, self.number + 1
        return EngineStep(self, number, running, waiting, kv_usage, monotonic_ns() if now_ns is None else now_ns)

    def _reason(self, number: int, duration_ns: int, prefills: bool, failed: bool) -> str:
        """Why the step is kept; "" where it is not."""
        median = self._medians[prefills]
        slow = median.seen >= MEDIAN_FROM and duration_ns > self._slow_ratio * median.value
        median.add(duration_ns)
        if failed:
            return "failed"
        if number < self._keep_first:
            return "first"
        if self._keep_every and number % self._keep_every == 0:
            return "every"
        if slow and number >= self._slow_again:
            self._slow_again = number + SLOW_SPACING
            return "slow"
        return ""


class EngineStep:
    """One pass of the model over a batch; see :meth:`EngineSteps.step`."""

    __slots__ = ("_kv_usage", "_parts", "_running", "_span", "_start_ns", "_steps", "_waiting", "number")

    def __init__(
        self, steps: EngineSteps, number: int, running: int, waiting: int, kv_usage: float | None, start_ns: int
    ) -> None:
        self.number = number
        self._steps = steps
        self._running, self._waiting, self._kv_usage = running, waiting, kv_usage
        self._parts: dict[EngineRequest, list[int]] = {}
        self._start_ns = start_ns
        begun = {names.ENGINE_NAME: steps.engine, names.ENGINE_STEP: number}
        self._span: Any = start_span(names.SPAN_ENGINE_STEP, begun, root=True, start_ns=start_ns)

    def __enter__(self) -> EngineStep:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error=error)

    @guarded("serving.engine_step.share")
    def share(self, request: EngineRequest, *, prefill_tokens: int = 0, decode_tokens: int = 0) -> None:
        """Say that `request` is in this step, and with how many tokens; a second call adds to the first.

        Call it before telling the request what the step brought it (:meth:`EngineRequest.token` and so on).
        """
        if self._span is None:
            return
        part = self._parts.get(request)
        if part is None:
            self._parts[request] = [prefill_tokens, decode_tokens]
            request._enter_step()
        else:
            part[0] += prefill_tokens
            part[1] += decode_tokens

    def end(self, now_ns: int | None = None, error: BaseException | None = None) -> None:
        """End the step (monotonic ns; now by default), as leaving ``with`` does. A second call does nothing.

        Args:
            error: what made it fail.
        """
        span, self._span = self._span, None
        if span is None:
            return
        try:
            self._end(span, monotonic_ns() if now_ns is None else max(now_ns, self._start_ns), error)
        except Exception as fault:
            swallow("serving.engine_step.end", fault)

    def _end(self, span: Any, end_ns: int, error: BaseException | None) -> None:
        parts, duration = self._parts, end_ns - self._start_ns
        prefilled = sum([part[0] for part in parts.values()])
        reason = self._steps._reason(self.number, duration, prefilled > 0, error is not None)
        shares = split(duration, [part[0] + part[1] * self._steps._decode_cost for part in parts.values()])
        attributes: dict[str, Any] = {
            names.ENGINE_STEP_KEPT: bool(reason),
            names.ENGINE_RUNNING: self._running,
            names.ENGINE_WAITING: self._waiting,
            names.ENGINE_PREFILL_TOKENS: prefilled,
            names.ENGINE_DECODE_TOKENS: sum([part[1] for part in parts.values()]),
        }
        if self._kv_usage is not None:
            attributes[names.ENGINE_KV_USAGE] = float(self._kv_usage)
        if reason:
            attributes[names.ENGINE_STEP_REASON] = reason
            attributes[names.ENGINE_STEP_REQUESTS] = [request.span_id for request in list(parts)[:LISTED]]
            attributes[names.ENGINE_STEP_SHARES] = [share / 1e9 for share in shares[:LISTED]]
        span.set_all(attributes)
        if error is not None:
            span.fail(error)
        context = span.context if reason and span.recording else None
        span.end(end_ns)
        for request, share in zip(parts, shares):  # noqa: B905 - one made of the other
            request._leave_step(context, share)


def split(duration_ns: int, costs: list[float]) -> list[int]:
    """`duration_ns` divided by `costs`, in whole ns that add up to it exactly."""
    total = sum(costs)
    if total <= 0:
        costs, total = [1.0] * len(costs), float(len(costs))
    shares, paid, run = [], 0, 0.0
    for cost in costs:
        run += cost
        due = round(duration_ns * (run / total))
        shares.append(due - paid)
        paid = due
    if shares:
        shares[-1] += duration_ns - paid
    return shares


class _Median:
    """The middle of the last MEDIAN_OF values."""

    __slots__ = ("_recent", "_sorted")

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []

    @property
    def seen(self) -> int:
        return len(self._sorted)

    @property
    def value(self) -> int:
        return self._sorted[len(self._sorted) // 2]

    def add(self, value: int) -> None:
        if len(self._recent) == MEDIAN_OF:
            old = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, old)]
        self._recent.append(value)
        insort(self._sorted, value)
