"""OpenAI-compatible requests to a real server, as they are recorded."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from aiobs.serving import current_request  # noqa: E402

from .asgi_serving import served  # noqa: E402
from .openai_app import FIRST_S, GAP_S, app  # noqa: E402

ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "a private question"}]}


def ask(path: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    """Attributes of one request, and under ``span`` the span."""
    with served(app) as it:
        httpx.post(it.url + path, json={**ASKED, **body}, timeout=30)
    span = it.request()
    assert "private" not in str(span)
    return {**span.attributes, "span": span}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/openai/v1/chat/completions", "/chat/completions"])
def test_an_answer_in_one_piece(path: str) -> None:
    facts = ask(path, temperature=0, max_completion_tokens=9, top_p=0.5, seed=3)
    expected = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "tiny",
        "gen_ai.request.temperature": 0.0, "gen_ai.request.max_tokens": 9, "gen_ai.request.top_p": 0.5,
        "gen_ai.request.seed": 3, "gen_ai.response.model": "tiny-1", "gen_ai.response.id": "cmpl-1",
        "gen_ai.response.finish_reasons": ["stop"], "gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 4, "aiobs.usage.source": "usage",
    }  # fmt: skip
    assert facts.items() >= expected.items()
    assert "aiobs.request.time_to_first_token" not in facts
    assert "aiobs.stream.chunks" not in facts


def on_schedule(facts: dict[str, Any], gaps: int, tokens: int) -> None:
    """Times are those of the schedule; what the sleeps of the server took beyond it is in its own duration."""
    span = facts["span"]
    first_s = facts["aiobs.request.time_to_first_token"]
    assert FIRST_S <= first_s < FIRST_S + 0.03
    assert facts["gen_ai.response.time_to_first_chunk"] < FIRST_S
    per_token_s = facts["aiobs.request.time_per_output_token"]
    assert per_token_s == pytest.approx((span.duration_s - first_s) / (tokens - 1), abs=1e-4)
    # The caller may read the first token late and find the next ones waiting.
    assert gaps * GAP_S - 0.01 <= per_token_s * (tokens - 1) < gaps * GAP_S + 0.05


@pytest.mark.parametrize("usage", [True, False])
def test_a_streamed_answer(usage: bool) -> None:
    facts = ask(stream=True, **({"stream_options": {"include_usage": True}} if usage else {}))
    assert facts["gen_ai.request.stream"] is True
    assert facts["gen_ai.usage.output_tokens"] == 7
    assert facts["aiobs.usage.source"] == ("usage" if usage else "chunks")
    assert facts.get("gen_ai.usage.input_tokens") == (11 if usage else None)
    assert facts["gen_ai.response.finish_reasons"] == ["length"]
    assert facts["gen_ai.response.id"] == "chatcmpl-1"
    on_schedule(facts, gaps=7, tokens=7)


def test_several_choices_that_end_at_different_times() -> None:
    facts = ask(stream=True, n=3, user="several")
    assert facts["gen_ai.response.finish_reasons"] == ["stop", "length", "stop"]
    assert facts["gen_ai.request.choice.count"] == 3
    assert facts["gen_ai.usage.output_tokens"] == 3 + 16 and facts["aiobs.usage.source"] == "chunks"


def test_tool_calls_are_output() -> None:
    facts = ask(stream=True, user="tools")
    assert facts["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert facts["aiobs.request.time_to_first_token"] >= FIRST_S
    assert facts["gen_ai.usage.output_tokens"] == 3


def test_events_cut_anywhere() -> None:
    facts = ask(stream=True, user="split")
    assert facts["gen_ai.usage.output_tokens"] == 7 and facts["aiobs.usage.source"] == "usage"
    assert facts["gen_ai.response.finish_reasons"] == ["length"]
    assert facts["aiobs.request.time_to_first_token"] > 0


@pytest.mark.parametrize("stream", [True, False])
def test_the_responses_route(stream: bool) -> None:
    body = {"model": "tiny", "input": "a private question", "stream": stream, "max_output_tokens": 4}
    with served(app) as it:
        httpx.post(f"{it.url}/v1/responses", json=body)
    facts = {**it.request().attributes, "span": it.request()}
    assert facts["gen_ai.operation.name"] == "chat"
    assert facts["gen_ai.response.id"] == "resp_1" and facts["gen_ai.request.max_tokens"] == 4
    assert facts["gen_ai.usage.output_tokens"] == 3 and facts["gen_ai.usage.reasoning.output_tokens"] == 1
    assert facts["gen_ai.response.finish_reasons"] == ["stop"]
    if stream:
        on_schedule(facts, gaps=3, tokens=3)


def test_completions_and_embeddings() -> None:
    with served(app) as it:
        httpx.post(f"{it.url}/v1/completions", json={"model": "tiny", "prompt": "a"})
        httpx.post(f"{it.url}/v1/embeddings", json={"model": "tiny-embed", "input": ["a"] * 40})
    text, vectors = (span.attributes for span in it.requests())
    assert text["gen_ai.operation.name"] == "text_completion" and text["gen_ai.usage.output_tokens"] == 7
    assert vectors["gen_ai.operation.name"] == "embeddings"
    assert vectors["gen_ai.usage.input_tokens"] == 80  # at the end of a quarter of a megabyte
    assert vectors["aiobs.usage.source"] == "usage"


def test_error_bodies_name_the_error() -> None:
    facts = ask(user="quota")
    assert facts["error.type"] == "rate_limit_exceeded" and facts["http.response.status_code"] == 429
    assert facts["span"].status == 0  # the caller's fault
    late = ask(user="late-error", stream=True)
    assert late["error.type"] == "engine_dead" and late["span"].status == 2
    assert "aiobs.request.time_per_output_token" not in late


def test_what_cannot_be_read_is_said() -> None:
    facts = ask(user="gzip")
    assert facts["aiobs.request.unread"] == "compressed" and facts["gen_ai.request.model"] == "tiny"
    assert "gen_ai.response.model" not in facts
    assert ask(user="garbage")["aiobs.request.unread"] == "malformed"
    assert ask(user="garbage-stream", stream=True)["aiobs.stream.chunks"] == 5
    with served(app) as it:
        httpx.post(f"{it.url}/v1/chat/completions", content=b'{"model": "tiny", "messages": [')
        httpx.post(f"{it.url}/v1/chat/completions", content=b"[" * 5000)
        httpx.post(f"{it.url}/v1/chat/completions", content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
    malformed, nested, compressed = (span.attributes for span in it.requests())
    assert malformed["aiobs.request.unread"] == nested["aiobs.request.unread"] == "malformed"
    assert malformed["error.type"] == "invalid_request_error" and malformed["http.response.status_code"] == 400
    assert compressed["aiobs.request.unread"] == "compressed"


def test_of_a_huge_request_the_beginning_is_read() -> None:
    huge = [{"role": "user", "content": "x" * 5_000_000}]
    with served(app) as it:
        body = json.dumps({"model": "tiny", "temperature": 0.5, "messages": huge, "top_p": 0.25}).encode()
        assert httpx.post(f"{it.url}/v1/chat/completions", content=(body[at : at + 9999] for at in range(0, len(body), 9999))).json()["id"]  # fmt: skip
    facts = it.request().attributes
    assert facts["gen_ai.request.model"] == "tiny" and facts["gen_ai.request.temperature"] == 0.5
    assert "gen_ai.request.top_p" not in facts


def test_other_routes_of_the_same_name_are_not_inference() -> None:
    with served(app) as it:
        httpx.post(f"{it.url}/todo/completions", json={"item": 3})
        httpx.get(f"{it.url}/v1/chat/completions")
    assert not [key for span in it.requests() for key in span.attributes if key.startswith("gen_ai.")]


def test_an_engine_in_the_process_knows_better() -> None:
    async def engine(scope: Any, receive: Any, send: Any) -> None:
        request = current_request()
        if request is not None:
            request.engine["gen_ai.usage.output_tokens"] = 5
            request.engine["gen_ai.provider.name"] = "reference"
        await app(scope, receive, send)

    with served(engine) as it:
        httpx.post(f"{it.url}/v1/chat/completions", json={**ASKED, "stream": True})
    facts = {**it.request().attributes, "span": it.request()}
    assert facts["gen_ai.usage.output_tokens"] == 5 and facts["aiobs.usage.source"] == "engine"
    assert facts["gen_ai.provider.name"] == "reference"
    on_schedule(facts, gaps=7, tokens=5)
