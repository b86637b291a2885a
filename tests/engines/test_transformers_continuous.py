"""Continuous batching of Hugging Face Transformers (the real library)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aiobs.serving import ServerRequest
from aiobs.testing import Captured, CapturedSpan, capture

from .tiny_models import llama

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "ContinuousBatchingConfig"):
    pytest.skip("this version of Transformers batches otherwise", allow_module_level=True)
from transformers import ContinuousBatchingConfig, GenerationConfig  # noqa: E402

PROMPTS = [[5, 6, 7, 8], [9, 10, 11], [12] * 10]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    yield
    transformers.logging.set_verbosity(before)


def settings(tokens: int) -> tuple[Any, Any]:
    generation = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=63, pad_token_id=0)
    return generation, ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=32, max_memory_percent=0.1)


def answer(model: Any, tokens: int = 5) -> dict[str, list[int]]:
    generation, batching = settings(tokens)
    made = model.generate_batch(
        PROMPTS, generation_config=generation, continuous_batching_config=batching, warmup=False
    )
    return {name: it.generated_tokens for name, it in made.items()}


def requests(captured: Captured) -> list[CapturedSpan]:
    return captured.named("text_completion LlamaForCausalLM")


def test_requests_share_steps_and_steps_add_up() -> None:
    model = llama()
    without = answer(model)
    with capture() as captured:
        assert answer(model) == without
    whole = requests(captured)
    assert sorted(it.attributes["gen_ai.usage.input_tokens"] for it in whole) == [3, 4, 10]
    for it in whole:
        assert it.attributes["gen_ai.usage.output_tokens"] == 5
        assert it.attributes["gen_ai.response.finish_reasons"] == ["length"]
        assert [child.name for child in captured.children(it)] == ["queue", "prefill", "decode"]
    steps = captured.named("engine step")
    assert steps[0].attributes["aiobs.engine.prefill_tokens"] == 17
    assert {step.attributes["aiobs.engine.decode_tokens"] for step in steps[1:]} == {3}
    for step in steps:
        assert sum(step.attributes["aiobs.engine.step.shares"]) == pytest.approx(step.duration_s, abs=1e-6)
        assert 0 < step.attributes["aiobs.engine.kv.usage"] <= 1
    owed = sum(it.attributes["aiobs.request.engine.share"] for it in whole)
    assert owed == pytest.approx(sum(step.duration_s for step in steps), abs=1e-5)


def test_a_request_is_that_of_the_code_that_added_it() -> None:
    model = llama()
    generation, batching = settings(4)
    with capture() as captured:
        with model.continuous_batching_context_manager(
            generation_config=generation, continuous_batching_config=batching, block=True, timeout=5
        ) as batches:
            request = ServerRequest.begin("POST /chat", {}, {}.get, "")
            name = batches.add_request([5, 6, 7], streaming=True)
            results = list(batches.request_id_iter(name))
            request.end()
    assert len(results) == 4
    served = captured.span("POST /chat")
    assert served.attributes["gen_ai.usage.output_tokens"] == 4
    assert [child.name for child in captured.children(served)] == ["queue", "prefill", "decode"]
    assert not requests(captured)


def test_two_engines_with_equal_names_for_their_requests_are_told_apart() -> None:
    models = [llama(), llama(seed=1)]
    with capture() as captured:
        for model in models:
            answer(model, 3)
    assert [it.attributes["gen_ai.usage.output_tokens"] for it in requests(captured)] == [3] * 6
    assert len({it.span_id for it in requests(captured)}) == 6


def test_a_cancelled_request_is_no_error() -> None:
    model = llama()
    generation, batching = settings(200)
    with capture() as captured:
        with model.continuous_batching_context_manager(
            generation_config=generation, continuous_batching_config=batching, block=True, timeout=5
        ) as batches:
            name = batches.add_request([5, 6, 7], streaming=True)
            next(batches.request_id_iter(name))
            batches.cancel_request(name)
            other = batches.add_request([5, 6], max_new_tokens=2)
            assert [len(it.generated_tokens) for it in batches.request_id_iter(other) if it.is_finished()] == [2]
    cancelled = next(it for it in requests(captured) if it.attributes["gen_ai.usage.input_tokens"] == 3)
    assert cancelled.attributes["aiobs.request.aborted"] == "cancelled"
    assert cancelled.status == 0


def test_an_engine_that_fails_fails_its_requests() -> None:
    model = llama()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ArithmeticError("no more")

    model.forward = broken
    generation, batching = settings(4)
    with capture() as captured:
        with model.continuous_batching_context_manager(
            generation_config=generation, continuous_batching_config=batching, block=True, timeout=5, warmup=False
        ) as batches:
            batches.add_request([5, 6, 7])
            assert batches.get_result(timeout=10).error
    (whole,) = requests(captured)
    assert whole.status == 2
    assert whole.attributes["error.type"] == "ArithmeticError"


def test_a_request_that_gives_its_cache_away_waits_and_prefills_again() -> None:
    model = llama()
    generation = GenerationConfig(max_new_tokens=40, do_sample=False, eos_token_id=63, pad_token_id=0)
    small = ContinuousBatchingConfig(page_size=16, num_blocks=6, max_batch_tokens=64, max_memory_percent=0.1)
    prompts = [[number] * 16 for number in (5, 9, 12, 13)]
    with capture() as captured:
        made = model.generate_batch(
            prompts, generation_config=generation, continuous_batching_config=small, warmup=False
        )
    whole = requests(captured)
    assert len(whole) == 4
    lengths = sorted(len(it.generated_tokens) for it in made.values())
    assert sorted(it.attributes["gen_ai.usage.output_tokens"] for it in whole) == lengths
    preempted = [it for it in whole if it.attributes["aiobs.request.preemptions"]]
    assert preempted
    for it in preempted:
        phases = [child.name for child in captured.children(it)]
        assert phases.count("queue") == 1 + it.attributes["aiobs.request.preemptions"]
        assert phases[-2:] == ["prefill", "decode"]
