"""The vLLM patch against a stand-in of vLLM's documented interface (tests/engines/standins/vllm.py): vLLM itself
needs a GPU build that this suite cannot install."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from aiobs import patches
from aiobs.serving import ServerRequest
from aiobs.testing import CapturedSpan, capture

from .standins import vllm as standin


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    return standin.install(monkeypatch)


async def read(engine: Any, parameters: Any, prompt: Any = (1, 2, 3), **more: Any) -> list[Any]:
    return [output async for output in engine.generate(list(prompt), parameters, "r", **more)]


def check_times(span: CapturedSpan, tokens: int, stats: Any) -> None:
    facts = span.attributes
    assert facts["gen_ai.usage.input_tokens"] == 3
    assert facts["gen_ai.usage.output_tokens"] == tokens
    assert facts["gen_ai.response.finish_reasons"] == ["length"]
    assert facts["gen_ai.usage.cache_read.input_tokens"] == 2
    per_token = (stats.last_token_ts - stats.first_token_ts) / (tokens - 1)
    assert facts["aiobs.request.prefill.duration"] == pytest.approx(stats.first_token_ts - stats.scheduled_ts, abs=1e-6)
    assert facts["aiobs.request.queue.duration"] >= 0.02
    assert facts["aiobs.request.time_per_output_token"] == pytest.approx(per_token, abs=5e-3)


@pytest.mark.parametrize("kind", ["CUMULATIVE", "DELTA", "FINAL_ONLY"])
def test_a_request_has_the_engines_own_times(vllm: Any, kind: str) -> None:
    parameters = vllm.SamplingParams(5, vllm.RequestOutputKind[kind])
    with capture() as captured:
        outputs = asyncio.run(read(vllm.AsyncLLM(), parameters))
    assert len(outputs) == (1 if kind == "FINAL_ONLY" else 5)
    whole = captured.span("text_completion tiny")
    check_times(whole, 5, outputs[-1].metrics)
    assert [child.name for child in captured.children(whole)] == ["queue", "prefill", "decode"]
    assert whole.attributes["gen_ai.request.max_tokens"] == 5


def test_without_statistics_what_is_seen_from_outside_is_told(vllm: Any) -> None:
    parameters = vllm.SamplingParams(4, vllm.RequestOutputKind.DELTA)
    with capture() as captured:
        asyncio.run(read(vllm.AsyncLLM(log_stats=False), parameters))
    facts = captured.span("text_completion tiny").attributes
    assert facts["aiobs.request.queue.duration"] == 0
    assert 0.03 <= facts["aiobs.request.time_to_first_token"] < 0.3
    assert facts["gen_ai.usage.output_tokens"] == 4


def test_inside_a_servers_request_the_facts_are_its_own(vllm: Any) -> None:
    async def handle() -> None:
        request = ServerRequest.begin("POST /v1/completions", {}, {}.get, "")
        outputs.extend(await read(vllm.AsyncLLM(), vllm.SamplingParams(5, vllm.RequestOutputKind.DELTA)))
        request.end()

    outputs: list[Any] = []
    with capture() as captured:
        asyncio.run(handle())
    served = captured.span("POST /v1/completions")
    check_times(served, 5, outputs[-1].metrics)
    assert not captured.named("text_completion tiny")


def test_on_an_openai_route_the_callers_words_stand(vllm: Any) -> None:
    async def handle() -> None:
        request = ServerRequest.begin("POST", {"url.path": "/v1/chat/completions"}, {}.get, "")
        await read(vllm.AsyncLLM(), vllm.SamplingParams(2))
        request.end({"gen_ai.operation.name": "chat", "gen_ai.request.model": "asked-for"})

    with capture() as captured:
        asyncio.run(handle())
    facts = captured.span("POST").attributes
    assert (facts["gen_ai.operation.name"], facts["gen_ai.request.model"]) == ("chat", "asked-for")
    assert (facts["gen_ai.provider.name"], facts["gen_ai.usage.output_tokens"]) == ("vllm", 2)


def test_concurrent_requests_keep_apart(vllm: Any) -> None:
    async def handle(number: int) -> None:
        request = ServerRequest.begin(f"POST /{number}", {}, {}.get, "")
        await read(engine, vllm.SamplingParams(2 + number, vllm.RequestOutputKind.DELTA))
        request.end()

    async def serve() -> None:
        await asyncio.gather(*(handle(number) for number in range(8)))

    engine = vllm.AsyncLLM()
    with capture() as captured:
        asyncio.run(serve())
    for number in range(8):
        served = captured.span(f"POST /{number}")
        assert served.attributes["gen_ai.usage.output_tokens"] == 2 + number
        assert len(captured.children(served)) == 3


def test_a_reader_that_leaves_aborts_the_request_as_ever(vllm: Any) -> None:
    async def leave() -> None:
        outputs = engine.generate([1, 2, 3], vllm.SamplingParams(50), "gone")
        await outputs.__anext__()
        await outputs.aclose()

    engine = vllm.AsyncLLM()
    with capture() as captured:
        asyncio.run(leave())
    assert engine.aborted == ["gone"]
    whole = captured.span("text_completion tiny")
    assert whole.attributes["aiobs.request.aborted"] == "disconnected"
    assert whole.status == 0


def test_an_error_of_the_engine_reaches_the_reader(vllm: Any) -> None:
    with capture() as captured, pytest.raises(RuntimeError, match="EngineGenerateError"):
        asyncio.run(read(vllm.AsyncLLM(), vllm.SamplingParams(3), [13]))
    assert captured.span("text_completion tiny").status == 2


def test_spans_of_vllms_own_join_the_request(vllm: Any) -> None:
    engine = vllm.AsyncLLM(tracing_enabled=True)
    with capture() as captured:
        asyncio.run(read(engine, vllm.SamplingParams(1), trace_headers={"x": "y"}))
    whole = captured.span("text_completion tiny")
    (headers,) = engine.trace_headers
    assert headers["x"] == "y"
    assert headers["traceparent"] == f"00-{whole.trace_id}-{whole.span_id}-01"
    silent = vllm.AsyncLLM()
    with capture():
        asyncio.run(read(silent, vllm.SamplingParams(1)))
    assert silent.trace_headers == [None]


def test_one_offline_prompt_is_one_request(vllm: Any) -> None:
    with capture() as captured:
        vllm.LLM().chat([{"role": "user", "content": "hello"}])
    whole = captured.span("chat tiny")
    assert whole.attributes["gen_ai.usage.output_tokens"] == 4
    assert whole.attributes["aiobs.request.queue.duration"] == pytest.approx(0.01, abs=2e-3)
    assert whole.attributes["aiobs.request.time_to_first_token"] == pytest.approx(0.02, abs=5e-3)
    assert whole.attributes["aiobs.request.time_per_output_token"] == pytest.approx(0.01, abs=1e-3)


def test_an_offline_batch_is_one_call_and_its_requests(vllm: Any) -> None:
    with capture() as captured:
        vllm.LLM().generate([[1, 2, 3]] * 100, vllm.SamplingParams(4))
    spans = captured.named("text_completion tiny")
    whole = next(it for it in spans if "aiobs.request.inputs" in it.attributes)
    requests = [it for it in spans if it is not whole]
    assert whole.attributes["aiobs.request.inputs"] == 100
    assert whole.attributes["gen_ai.usage.input_tokens"] == 300
    assert whole.attributes["gen_ai.usage.output_tokens"] == 400
    assert len(requests) == 64
    assert {it.parent_id for it in requests} == {whole.span_id}
    assert {it.attributes["gen_ai.usage.output_tokens"] for it in requests} == {4}


def test_an_offline_error_is_the_callers(vllm: Any) -> None:
    with capture() as captured:
        with pytest.raises(ValueError, match="no such prompt"):
            vllm.LLM().generate([[13]])
        vllm.LLM().generate([[1]])
    failed, fine = captured.named("text_completion tiny")
    assert (failed.status, fine.status) == (2, 0)


def test_embeddings_are_told_apart(vllm: Any) -> None:
    async def encode() -> list[Any]:
        return [output async for output in vllm.AsyncLLM().encode([1, 2, 3], None, "r")]

    with capture() as captured:
        asyncio.run(encode())
    assert captured.span("embeddings tiny").attributes["gen_ai.usage.input_tokens"] == 3


def test_everything_is_put_back(vllm: Any) -> None:
    before = vllm.AsyncLLM.generate, vllm.LLM.generate, inspect.signature(vllm.AsyncLLM.generate)
    with capture():
        assert "vllm" in patches.active()
        assert vllm.AsyncLLM.generate is not before[0]
        assert inspect.isasyncgenfunction(vllm.AsyncLLM.generate)
        assert inspect.signature(vllm.AsyncLLM.generate) == before[2]
    assert (vllm.AsyncLLM.generate, vllm.LLM.generate) == before[:2]
