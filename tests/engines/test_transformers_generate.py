"""``generate()`` of Hugging Face Transformers (the real library), with models made on the spot."""

from __future__ import annotations

import inspect
import random
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from aiobs import patches, span
from aiobs.serving import ServerRequest
from aiobs.testing import Captured, CapturedSpan, capture

from .tiny_models import END, llama, prompt, tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers import LogitsProcessor, TextIteratorStreamer  # noqa: E402

PHASES = ["queue", "prefill", "decode"]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def generations(captured: Captured) -> list[CapturedSpan]:
    return captured.named("text_completion LlamaForCausalLM")


class Watched(LogitsProcessor):  # type: ignore[misc]
    """Makes every token take a while, and notes when it is there."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        time.sleep(0.02)
        self.at.append(time.monotonic())
        return scores


def test_a_generation_has_its_phases_and_tokens() -> None:
    model = llama()
    with capture() as captured:
        model.generate(**prompt(), max_new_tokens=5, do_sample=False)
    (whole,) = generations(captured)
    assert [child.name for child in captured.children(whole)] == PHASES
    facts = whole.attributes
    assert (facts["gen_ai.operation.name"], facts["gen_ai.provider.name"]) == ("text_completion", "transformers")
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (8, 5)
    assert facts["gen_ai.response.finish_reasons"] == ["length"]
    assert (facts["aiobs.request.mode"], facts["aiobs.request.sequences"]) == ("greedy", 1)
    assert facts["gen_ai.request.max_tokens"] == 5


def test_times_are_those_seen_from_inside() -> None:
    model, watched = llama(), Watched()
    with capture() as captured:
        begun = time.monotonic()
        model.generate(**prompt(), max_new_tokens=8, do_sample=False, logits_processor=[watched])
    (whole,) = generations(captured)
    facts = whole.attributes
    gaps = sorted(after - before for before, after in pairwise(watched.at))
    per_token = sum(gaps) / len(gaps)
    # Between a token's choice and the loop's next question lie the criteria, and whatever else a busy machine does.
    assert facts["aiobs.request.time_to_first_token"] == pytest.approx(watched.at[0] - begun, abs=1e-2)
    assert facts["aiobs.request.time_per_output_token"] == pytest.approx(per_token, abs=5e-3)
    assert gaps[0] - 8e-3 < facts["aiobs.request.inter_token.p50"] < gaps[-1] + 8e-3
    assert facts["aiobs.request.inter_token.max"] == pytest.approx(gaps[-1], abs=1e-2)
    prefill, decode = captured.children(whole)[1:]
    assert prefill.duration_s == pytest.approx(facts["aiobs.request.time_to_first_token"], abs=1e-3)
    assert decode.duration_s == pytest.approx(per_token * 7, abs=5e-2)


def test_a_batch_counts_every_sequence_up_to_its_end() -> None:
    model = llama(end=END)
    arguments = {**prompt(rows=3), "max_new_tokens": 6, "do_sample": False}

    class EndsFirstRow(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            if input_ids.shape[1] == 10:  # the third new token
                scores[0, END] = 1e9
            return scores

    arguments["attention_mask"][1, :3] = 0  # padded on the left
    with capture() as captured:
        made = model.generate(**arguments, logits_processor=[EndsFirstRow()])
    assert made.shape == (3, 14)
    facts = generations(captured)[0].attributes
    assert facts["gen_ai.response.finish_reasons"] == ["stop", "length", "length"]
    assert facts["gen_ai.usage.output_tokens"] == 3 + 6 + 6
    assert facts["gen_ai.usage.input_tokens"] == 8 + 5 + 8
    assert (facts["aiobs.request.inputs"], facts["aiobs.request.sequences"]) == (3, 3)


def test_beam_search_sampling_and_assisted_decoding_are_told_apart() -> None:
    model, assistant = llama(), llama(seed=1)
    with capture() as captured:
        model.generate(**prompt(rows=2), max_new_tokens=4, num_beams=3, do_sample=False)
        model.generate(**prompt(), max_new_tokens=4, do_sample=True, temperature=0.7, top_p=0.9)
        model.generate(**prompt(), max_new_tokens=7, do_sample=False, assistant_model=assistant)
    beam, sample, assisted = [it.attributes for it in generations(captured)]
    assert [it["aiobs.request.mode"] for it in (beam, sample, assisted)] == ["beam", "sample", "assisted"]
    assert (beam["aiobs.request.inputs"], beam["aiobs.request.sequences"]) == (2, 6)
    assert beam["gen_ai.usage.output_tokens"] == 8
    assert (sample["gen_ai.request.temperature"], sample["gen_ai.request.top_p"]) == (0.7, 0.9)
    assert assisted["gen_ai.usage.output_tokens"] == 7  # the assistant's own generations are part of it, not more


def test_dictionaries_and_embeddings_are_understood() -> None:
    model = llama()
    embeddings = model.get_input_embeddings()(prompt()["input_ids"])
    with capture() as captured:
        model.generate(**prompt(), max_new_tokens=3, return_dict_in_generate=True, output_scores=True)
        model.generate(inputs_embeds=embeddings, max_new_tokens=3)
        model.generate(max_new_tokens=3)
    assert [it.attributes["gen_ai.usage.output_tokens"] for it in generations(captured)] == [3, 3, 3]
    assert [it.attributes["gen_ai.usage.input_tokens"] for it in generations(captured)] == [8, 8, 1]


def test_a_decoding_method_of_the_models_own_counts_its_steps() -> None:
    def own(
        model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, generation_config: Any, **more: Any
    ) -> Any:
        made = 0
        while model._has_unfinished_sequences(made == 3, synced_gpus=False, device=input_ids.device):
            input_ids = torch.cat([input_ids, input_ids[:, -1:]], dim=-1)
            made += 1
        return input_ids

    with capture() as captured:
        made = llama().generate(**prompt(), max_new_tokens=9, custom_generate=own)
    assert made.shape == (1, 11)
    facts = generations(captured)[0].attributes
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (8, 3)
    assert "aiobs.request.mode" not in facts


def stream(model: Any, tokens: int) -> list[str]:
    """What a server does that streams: a thread generates while this one reads."""
    streamer = TextIteratorStreamer(tokenizer(), skip_prompt=True)
    arguments = {**prompt(), "max_new_tokens": tokens, "do_sample": False, "streamer": streamer}
    thread = threading.Thread(target=model.generate, kwargs=arguments)
    thread.start()
    chunks = list(streamer)
    thread.join()
    return chunks


def test_a_thread_of_its_own_answers_the_request_that_made_its_streamer() -> None:
    model = llama()
    with capture() as captured:
        request = ServerRequest.begin("POST /generate", {}, {}.get, "")
        chunks = stream(model, 5)
        request.end()
    assert "".join(chunks).split()
    assert not generations(captured)  # the server's span stands for it
    served = captured.span("POST /generate")
    assert [child.name for child in captured.children(served)] == PHASES
    assert served.attributes["gen_ai.usage.output_tokens"] == 5
    assert served.attributes["gen_ai.request.stream"] is True
    assert served.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert served.attributes["aiobs.usage.source"] == "engine"


def test_facts_are_there_before_the_stream_ends() -> None:
    model = llama()
    with capture():
        request = ServerRequest.begin("POST /generate", {}, {}.get, "")
        streamer = TextIteratorStreamer(tokenizer(), skip_prompt=True)
        ended: list[Any] = []
        streamer.on_finalized_text = lambda _text, stream_end=False: (  # type: ignore[method-assign]
            ended.append(request.engine.get("gen_ai.usage.output_tokens")) if stream_end else None
        )
        model.generate(**prompt(), max_new_tokens=4, streamer=streamer)
        request.end()
    assert ended == [4]


def test_an_error_is_the_applications_and_marks_the_span() -> None:
    class Refusing(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            raise ArithmeticError("no more")

    model = llama()
    with capture() as captured, pytest.raises(ArithmeticError, match="no more"):
        model.generate(**prompt(), max_new_tokens=4, logits_processor=[Refusing()])
    (whole,) = generations(captured)
    assert whole.status == 2
    assert whole.attributes["error.type"] == "ArithmeticError"
    with capture() as captured:
        model.generate(**prompt(), max_new_tokens=2)  # the thread is not stuck in the one that failed
    assert len(generations(captured)) == 1


def test_results_and_random_streams_are_bit_equal() -> None:
    model = llama()

    def sampled() -> tuple[Any, Any, Any]:
        torch.manual_seed(5)
        random.seed(5)
        return (
            model.generate(**prompt(rows=2), max_new_tokens=12, do_sample=True),
            torch.get_rng_state(),
            random.getstate(),
        )

    without = sampled()
    with capture() as captured:
        with_us = sampled()
    assert generations(captured)
    assert torch.equal(without[0], with_us[0])
    assert torch.equal(without[1], with_us[1])
    assert without[2] == with_us[2]


def test_everything_is_put_back() -> None:
    from transformers.generation.streamers import TextStreamer
    from transformers.generation.utils import GenerationMixin, StoppingCriteriaList
    from transformers.pipelines.base import Pipeline

    places = [
        (GenerationMixin, "generate"), (GenerationMixin, "_sample"), (GenerationMixin, "_beam_search"),
        (GenerationMixin, "_assisted_decoding"), (GenerationMixin, "_has_unfinished_sequences"),
        (StoppingCriteriaList, "__call__"), (TextStreamer, "__init__"), (Pipeline, "__call__"),
    ]  # fmt: skip
    before = [(vars(owner).get(name), inspect.signature(getattr(owner, name))) for owner, name in places]
    with capture():
        assert "transformers" in patches.active()
        replaced = [(vars(owner).get(name), inspect.signature(getattr(owner, name))) for owner, name in places]
        assert all(was[0] is not now[0] for was, now in zip(before, replaced, strict=True))
        assert [it[1] for it in replaced] == [it[1] for it in before]
    assert [(vars(owner).get(name), inspect.signature(getattr(owner, name))) for owner, name in places] == before


def test_training_goes_on_around_a_generation() -> None:
    model = llama().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    tokens = prompt(rows=2)["input_ids"]
    with capture() as captured:
        for number in range(4):
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if number == 1:
                model.eval()
                model.generate(**prompt(), max_new_tokens=3, do_sample=False)
                model.train()
    steps = captured.named("train step") or captured.named("rank step")
    assert [step.attributes["aiobs.step"] for step in steps] == [1, 2, 3, 4] or len(steps) == 4
    assert len(generations(captured)) == 1


def test_a_compiled_model_generates_without_more_graphs() -> None:
    model = llama()
    seen: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph.forward

    def run() -> tuple[Any, int]:
        torch._dynamo.reset()
        seen.clear()
        model.forward = torch.compile(type(model).forward.__get__(model), backend=backend)
        try:
            return model.generate(**prompt(), max_new_tokens=4, do_sample=False), len(seen)
        finally:
            del model.forward

    without = run()
    with capture() as captured:
        with_us = run()
    assert without[1] == with_us[1] > 0
    assert torch.equal(without[0], with_us[0])
    assert generations(captured)[0].attributes["gen_ai.usage.output_tokens"] == 4


def test_a_pipeline_is_a_span_around_its_generation() -> None:
    from transformers import TextGenerationPipeline

    # A pipeline reads its inputs through a DataLoader: where models are trained too, that may begin a step.
    with capture(patches_off="torch") as captured:
        pipe = TextGenerationPipeline(model=llama(), tokenizer=tokenizer(), task="text-generation")
        with span("handler"):
            answers = pipe(["w3 w4", "w5"], max_new_tokens=3, do_sample=False)
    assert len(answers) == 2
    around = captured.span("pipeline text-generation")
    assert around.attributes["aiobs.request.inputs"] == 2
    assert around.parent_id == captured.span("handler").span_id
    assert {it.parent_id for it in generations(captured)} == {around.span_id}


def test_a_pipeline_fed_by_a_generator_leaves_the_generations() -> None:
    from transformers import TextGenerationPipeline

    with capture(patches_off="torch") as captured:
        pipe = TextGenerationPipeline(model=llama(), tokenizer=tokenizer(), task="text-generation")
        lazy = pipe((text for text in ["w3", "w4"]), max_new_tokens=2, do_sample=False)
        assert len(list(lazy)) == 2
    assert not captured.named("pipeline text-generation")
    assert len(generations(captured)) == 2
