"""The reference engine is a real one: what it answers does not depend on who else is being served."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .llm_example import END, Generation, Piece, Runner, Transformer, encode, observed

PROMPTS = ["Hello", "a much longer prompt that goes on and on " * 3, "x", "The quick brown fox", "abc" * 20]
TOKENS = 30


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    """The greedy answers of a model that sees nothing but the one text, whole, at every token."""
    torch.set_num_threads(1)  # so small a model gains nothing from more, and others use the machine too
    model = Transformer()
    model.reserve(64, 16)
    found = []
    for prompt in PROMPTS:
        tokens, answer = encode(prompt), []
        while len(answer) < TOKENS and END not in answer:
            answer.append(int(model.run([Piece(tokens + answer, 0, list(range(64)))])[0].argmax()))
        found.append([token for token in answer if token != END])
    return found


def answers(prompts: list[str], temperature: float = 0.0, **limits: Any) -> tuple[list[list[int]], list[str]]:
    """The answers of an engine, and what its journal says it did."""
    with Runner(Transformer(), **limits) as runner:
        those = []
        for index, prompt in enumerate(prompts):
            seen = observed.engine_request("m", "text_completion", {}, 0)
            those.append(Generation(encode(prompt), TOKENS, seen, temperature, seed=index))
            runner.engine.submit(those[-1])
        runner.wait_ended(len(those))
        assert runner.engine.load == {"running": 0, "waiting": 0, "kv_usage": 0}
        assert runner.engine.journal is not None
        return [it.tokens[it.prompt :] for it in those], [entry[0] for entry in runner.engine.journal]


@pytest.mark.parametrize(
    ("limits", "preempts"),
    [
        ({}, False),
        ({"max_batch": 2}, False),
        ({"step_tokens": 16}, False),
        ({"blocks": 30, "block_size": 8, "step_tokens": 32}, True),
    ],
    ids=["all at once", "two at a time", "prompts in parts", "preempted"],
)
def test_a_batch_answers_as_each_alone(alone: list[list[int]], limits: dict[str, Any], *, preempts: bool) -> None:
    found, done = answers(PROMPTS, **limits)
    assert found == alone
    assert ("preempted" in done) == preempts


def test_sampling_depends_on_the_seed_alone() -> None:
    first, _ = answers(["same"] * 3, temperature=1.0)
    again, _ = answers(["same"] * 3, temperature=1.0, max_batch=1)
    assert first == again
    assert len({tuple(each) for each in first}) == 3


def test_what_can_never_fit_is_refused() -> None:
    with Runner(Transformer(), blocks=4, block_size=8) as runner, pytest.raises(ValueError, match="at most 32"):
        runner.submit(20, 20)
