"""The SGLang patch against a stand-in of SGLang's documented interface (tests/engines/standins/sglang.py): SGLang
itself needs a GPU build that this suite cannot install."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from aiobs import patches
from aiobs.serving import ServerRequest
from aiobs.testing import capture

from .standins import sglang as standin


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made = standin.install(monkeypatch).Engine()
    yield made
    made.shutdown()


def test_a_streamed_request_has_its_phases(engine: Any) -> None:
    with capture() as captured:
        chunks = list(engine.generate("hello", {"max_new_tokens": 5, "temperature": 0.5}, stream=True))
    assert len(chunks) == 5
    whole = captured.span("text_completion tiny")
    facts = whole.attributes
    assert [child.name for child in captured.children(whole)] == ["queue", "prefill", "decode"]
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (3, 5)
    assert facts["gen_ai.usage.cache_read.input_tokens"] == 1
    assert facts["gen_ai.response.finish_reasons"] == ["length"]
    assert (facts["gen_ai.request.max_tokens"], facts["gen_ai.request.temperature"]) == (5, 0.5)
    assert facts["aiobs.request.queue.duration"] == pytest.approx(0.02, abs=5e-3)
    assert 0.03 <= facts["aiobs.request.time_to_first_token"] < 0.3
    assert 0.009 <= facts["aiobs.request.time_per_output_token"] < 0.1


def test_a_whole_answer_is_finished_though_nobody_exhausts_the_generator(engine: Any) -> None:
    with capture() as captured:
        answer = engine.generate("hello", {"max_new_tokens": 4})
    assert answer["text"] == "xxxx"
    facts = captured.span("text_completion tiny").attributes
    assert facts["gen_ai.usage.output_tokens"] == 4
    assert "aiobs.request.aborted" not in facts
    assert "aiobs.request.time_to_first_token" not in facts  # nobody outside the engine knows it


@pytest.mark.parametrize("stream", [False, True])
def test_a_batch_is_one_request_of_several_prompts(engine: Any, stream: bool) -> None:
    with capture() as captured:
        answers = engine.generate(["one", "two", "three"], {"max_new_tokens": 4}, stream=stream)
        assert len(list(answers)) == (12 if stream else 3)
    facts = captured.span("text_completion tiny").attributes
    assert (facts["aiobs.request.inputs"], facts["gen_ai.usage.output_tokens"]) == (3, 12)
    assert facts["gen_ai.usage.input_tokens"] == 9
    if stream:
        assert 0.009 <= facts["aiobs.request.time_per_output_token"] < 0.1


def test_inside_a_servers_request_the_facts_are_its_own(engine: Any) -> None:
    async def handle() -> None:
        request = ServerRequest.begin("POST /generate", {}, {}.get, "")
        async for _ in await engine.async_generate("hello", {"max_new_tokens": 3}, stream=True):
            pass
        request.end()

    with capture() as captured:
        asyncio.run(handle())
    served = captured.span("POST /generate")
    assert served.attributes["gen_ai.usage.output_tokens"] == 3
    assert [child.name for child in captured.children(served)] == ["queue", "prefill", "decode"]


def test_a_refused_request_raises_what_it_raised(engine: Any) -> None:
    with capture() as captured, pytest.raises(ValueError, match="too long"):
        engine.generate("refused")
    assert captured.span("text_completion tiny").status == 2


def test_a_reader_that_leaves_is_no_error(engine: Any) -> None:
    async def leave() -> None:
        chunks = await engine.async_generate("hello", {"max_new_tokens": 50}, stream=True)
        await chunks.__anext__()
        await chunks.aclose()

    with capture() as captured:
        asyncio.run(leave())
    whole = captured.span("text_completion tiny")
    assert (whole.status, whole.attributes["aiobs.request.aborted"]) == (0, "disconnected")


def test_embeddings_are_told_apart(engine: Any) -> None:
    with capture() as captured:
        engine.encode("hello")
    assert captured.span("embeddings tiny").attributes["gen_ai.usage.input_tokens"] == 3


def test_spans_of_sglangs_own_join_the_request(engine: Any) -> None:
    traced = standin.Engine(enable_trace=True)
    with capture() as captured:
        traced.generate("hello")
        engine.generate("hello")
    traced.shutdown()
    whole = captured.named("text_completion tiny")[0]
    (asked,) = traced.tokenizer_manager.asked
    assert asked.external_trace_header == {"traceparent": f"00-{whole.trace_id}-{whole.span_id}-01"}
    assert engine.tokenizer_manager.asked[0].external_trace_header is None


def test_everything_is_put_back(engine: Any) -> None:
    kind = standin.TokenizerManager
    before, signature = kind.generate_request, inspect.signature(kind.generate_request)
    with capture():
        assert "sglang" in patches.active()
        assert kind.generate_request is not before
        assert inspect.isasyncgenfunction(kind.generate_request)
        assert inspect.signature(kind.generate_request) == signature
    assert kind.generate_request is before
