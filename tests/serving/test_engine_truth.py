"""What the engine API reports is what the reference engine itself wrote down with a clock of its own."""

from __future__ import annotations

from collections import defaultdict
from time import sleep
from typing import Any

import pytest

from aiobs import names
from aiobs.testing import Captured, CapturedSpan, capture

from .llm_example import MODEL, Runner, Steady

SCHEDULE = [(12, 20), (40, 6), (8, 20), (70, 5), (5, 25), (16, 12), (3, 1), (20, 15)]
"""Tokens of the prompt and of the answer; one comes every 15 ms."""
LIMITS = {"max_batch": 4, "step_tokens": 16, "blocks": 14, "block_size": 8}
"""Prompts are prefilled in parts, some wait for a place in the batch, and the cache is too small for four."""


class Truth:
    """A generation by the engine's journal: ns of its phases, its tokens' times, its steps."""

    def __init__(self) -> None:
        self.total = dict.fromkeys(("queue", "prefill", "decode"), 0)
        self.parts: list[tuple[str, int]] = []
        self.tokens: list[int] = []
        self.preemptions = 0
        self.steps: set[int] = set()
        self.arrived = 0


def truths(journal: list[Any]) -> dict[int, Truth]:
    found: dict[int, Truth] = defaultdict(Truth)
    now: dict[int, tuple[str, int]] = {}

    def turn(number: int, phase: str, at: int) -> None:
        if number in now:
            before, since = now[number]
            found[number].total[before] += at - since
            found[number].parts.append((before, at - since))
        now[number] = (phase, at)

    for what, number, at, *rest in journal:
        it = found[number]
        if what == "step":
            for member in rest[1]:
                found[member].steps.add(number)
        elif what == "arrived":
            it.arrived = at
            turn(number, "queue", at)
        elif what in ("scheduled", "resumed"):
            turn(number, "prefill", at)
        elif what == "preempted":
            it.preemptions += 1
            turn(number, "queue", at)
        elif what == "token":
            it.tokens.append(at)
            if now[number][0] != "decode":
                turn(number, "decode", at)
        elif what in ("finished", "aborted", "failed"):
            turn(number, "over", at)
    return found


def close(reported_s: float, truth_ns: float) -> bool:
    """Within 1 ms or 1 %."""
    return abs(reported_s * 1e9 - truth_ns) <= max(1e6, 0.01 * truth_ns)


def run_schedule() -> tuple[Captured, dict[int, Truth], list[str], list[Any]]:
    """The spans, the truth, and the requests' span ids by number."""
    with capture(patches_off=("all",)) as captured, Runner(Steady(0.008), **LIMITS, keep_every=1) as runner:
        generations = []
        for prompt, tokens in SCHEDULE:
            generations.append(runner.submit(prompt, tokens))
            sleep(0.015)
        runner.wait_ended(len(SCHEDULE))
        journal = runner.engine.journal
        spans = [it.seen.span_id for it in generations]
    assert journal is not None
    return captured, truths(journal), spans, journal


def wrong(captured: Captured, truth: dict[int, Truth], spans: list[str]) -> list[str]:
    """Every time that was reported and is not what it was."""
    found: list[str] = []

    def check(what: str, reported_s: float, truth_ns: float) -> None:
        if not close(reported_s, truth_ns):
            found.append(f"{what}: {reported_s * 1e3:.3f} ms, not {truth_ns / 1e6:.3f}")

    for number, span_id in enumerate(spans):
        it = next(span for span in captured.spans if span.span_id == span_id)
        true, said = truth[number], it.attributes
        check(f"{number} queue", said[names.REQUEST_QUEUE], true.total["queue"])
        check(f"{number} prefill", said[names.REQUEST_PREFILL], true.total["prefill"])
        check(f"{number} decode", said[names.REQUEST_DECODE], true.total["decode"])
        check(f"{number} TTFT", said[names.TIME_TO_FIRST_TOKEN], true.tokens[0] - true.arrived)
        if len(true.tokens) > 1:
            tpot = (true.tokens[-1] - true.tokens[0]) / (len(true.tokens) - 1)
            check(f"{number} TPOT", said[names.TIME_PER_OUTPUT_TOKEN], tpot)
            longest = max(b - a for a, b in zip(true.tokens, true.tokens[1:]))
            check(f"{number} longest wait", said[names.REQUEST_INTER_TOKEN_MAX], longest)
        for child, (phase, ns) in zip(captured.children(it), true.parts, strict=True):
            assert child.name == phase
            check(f"{number} span {phase}", child.duration_s, ns)
    return found


def test_times_are_true() -> None:
    # Between the engine's reading of the clock and ours the machine may run something else for a moment. That is
    # not our error, and does not come at the same places twice.
    errors: list[list[str]] = []
    for _ in range(3):
        captured, truth, spans, _ = run_schedule()
        errors.append(wrong(captured, truth, spans))
        if not errors[-1]:
            return
    pytest.fail("\n".join(map(str, errors)))


def step_spans(captured: Captured) -> dict[int, CapturedSpan]:
    return {span.attributes[names.ENGINE_STEP]: span for span in captured.named(names.SPAN_ENGINE_STEP)}


def test_preemptions_show_and_requests_know_their_steps() -> None:
    captured, truth, spans, journal = run_schedule()
    steps = step_spans(captured)
    assert len(steps) == sum(entry[0] == "step" for entry in journal)
    assert sum(it.preemptions for it in truth.values()) >= 1
    shares: dict[str, float] = defaultdict(float)
    for number, step in steps.items():
        members = step.attributes[names.ENGINE_STEP_REQUESTS]
        assert step.parent_id == ""
        assert set(members) == {spans[i] for i, it in truth.items() if i < len(spans) and number in it.steps}
        parts = step.attributes[names.ENGINE_STEP_SHARES]
        assert sum(parts) == pytest.approx(step.duration_s, rel=1e-3)
        for member, part in zip(members, parts, strict=True):
            shares[member] += part
    by_id = {span.span_id: number for number, span in steps.items()}
    for number, span_id in enumerate(spans):
        it = next(span for span in captured.spans if span.span_id == span_id)
        assert it.name == f"text_completion {MODEL}"
        assert it.attributes[names.REQUEST_PREEMPTIONS] == truth[number].preemptions
        assert it.attributes[names.REQUEST_ENGINE_STEPS] == len(truth[number].steps)
        assert it.attributes[names.REQUEST_ENGINE_SHARE] == pytest.approx(shares[span_id], rel=1e-6)
        assert it.attributes[names.GEN_AI_OUTPUT_TOKENS] == SCHEDULE[number][1]
        children = captured.children(it)
        assert [child.name for child in children].count("queue") == 1 + truth[number].preemptions
        linked = [by_id[link.span_id.hex()] for child in children for link in child.links]
        assert sorted(linked) == sorted(truth[number].steps)
        for child in children:
            for link in child.links:
                step = steps[by_id[link.span_id.hex()]]
                assert step.start_ns < child.end_ns
                assert child.start_ns < step.end_ns
