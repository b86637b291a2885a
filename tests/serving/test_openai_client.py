"""Calls through the real openai client against a real server."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiobs
from aiobs import patches
from aiobs.propagation import extract
from aiobs.testing import Captured, CapturedSpan, capture

from .processes import free_port, running

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx2")
pytest.importorskip("starlette")

ASK: Any = {"messages": [{"role": "user", "content": "private question"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    port = free_port()
    environment = {**os.environ, "AIOBS_ENABLED": "0"}
    with running([str(Path(__file__).parent / "openai_server.py"), str(port)], port, environment):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=server + "/v1", api_key="sk-secret", max_retries=0) as made:
        yield made


@pytest.fixture
def async_client(server: str) -> Any:
    return openai.AsyncOpenAI(base_url=server + "/v1", api_key="sk-secret", max_retries=0)


def headers_seen(server: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = httpx.get(server + "/seen").json()
    return found


def clients(captured: Captured) -> list[CapturedSpan]:
    return sorted((span for span in captured.spans if span.kind == 3), key=lambda span: span.start_ns)


async def read_all(stream: Any) -> None:
    async for _ in stream:
        pass


def the_call(captured: Captured) -> CapturedSpan:
    found = clients(captured)
    assert len(found) == 1, [span.name for span in found]
    return found[0]


def test_a_chat_completion(client: Any, server: str) -> None:
    with capture() as captured:
        answer = client.chat.completions.create(model="plain", temperature=0.5, max_tokens=9, **ASK)
    assert type(answer).__name__ == "ChatCompletion"
    call = the_call(captured)
    assert call.name == "chat plain"
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "plain",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.model": "plain-0613",
        "gen_ai.response.id": "x-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": int(server.rpartition(":")[2]),
        "aiobs.usage.source": "usage",
    }
    assert {key: call.attributes.get(key) for key in wanted} == wanted
    assert call.status == 0


def test_no_words_and_no_keys_are_recorded(client: Any) -> None:
    with capture() as captured:
        client.chat.completions.create(model="plain", **ASK)
        for _ in client.chat.completions.create(model="plain", stream=True, **ASK):
            pass
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="limited", **ASK)
    everything = repr(captured.spans)
    assert len(clients(captured)) == 3
    for secret in ("private question", "sk-secret", "secret words", "three"):
        assert secret not in everything


def test_the_context_travels_in_the_request(client: Any, server: str) -> None:
    headers_seen(server)
    with capture() as captured:
        with aiobs.span("asking"):
            client.chat.completions.create(model="plain", **ASK)
    [headers] = headers_seen(server)
    context = extract(headers)
    call = the_call(captured)
    assert context is not None
    assert (context.trace_id.hex(), context.span_id.hex()) == (call.trace_id, call.span_id)
    assert call.parent_id == captured.span("asking").span_id


def test_a_context_of_the_callers_own_is_left(client: Any, server: str) -> None:
    headers_seen(server)
    own = f"00-{'ab' * 16}-{'cd' * 8}-01"
    with capture():
        client.chat.completions.create(model="plain", extra_headers={"Traceparent": own}, **ASK)
        client.with_options(default_headers={"traceparent": own}).chat.completions.create(model="plain", **ASK)
    assert [headers["traceparent"] for headers in headers_seen(server)] == [own, own]


def test_the_context_stays_at_home_where_told(client: Any, server: str) -> None:
    headers_seen(server)
    with capture(propagate_to=("none",)) as captured:
        client.chat.completions.create(model="plain", **ASK)
    assert the_call(captured)
    assert "traceparent" not in headers_seen(server)[0]


def test_a_stream(client: Any) -> None:
    with capture() as captured:
        stream = client.chat.completions.create(model="slow", stream=True, **ASK)
        assert type(stream) is openai.Stream
        assert isinstance(stream.response, httpx.Response)
        chunks = list(stream)
    assert len(chunks) == 6
    assert {type(chunk).__name__ for chunk in chunks} == {"ChatCompletionChunk"}
    call = the_call(captured)
    facts = call.attributes
    assert facts["gen_ai.request.stream"] is True
    assert facts["gen_ai.response.finish_reasons"] == ["stop"]
    assert facts["gen_ai.usage.output_tokens"] == 4
    assert facts["aiobs.usage.source"] == "chunks"
    assert facts["aiobs.stream.chunks"] == 6
    assert (
        0.02
        < facts["gen_ai.response.time_to_first_chunk"]
        < facts["gen_ai.response.time_to_first_chunk"] + 0.08
        < call.duration_s
    )
    assert 0.015 < facts["aiobs.stream.chunk.p50"] < 0.1
    assert "aiobs.request.abandoned" not in facts


def test_a_stream_that_says_its_usage(client: Any) -> None:
    with capture() as captured:
        for _ in client.chat.completions.create(
            model="usage", stream=True, stream_options={"include_usage": True}, **ASK
        ):
            pass
    facts = the_call(captured).attributes
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (7, 5)
    assert facts["aiobs.usage.source"] == "usage"


def closed(client: Any) -> None:
    stream = client.chat.completions.create(model="slow", stream=True, **ASK)
    next(stream)
    stream.close()


def left(client: Any) -> None:
    with client.chat.completions.create(model="slow", stream=True, **ASK) as stream:
        for _ in stream:
            break


def left_events(client: Any) -> None:
    with client.chat.completions.stream(model="slow", **ASK) as stream:
        for _ in stream:
            break


def dropped(client: Any) -> None:
    for _ in client.chat.completions.create(model="slow", stream=True, **ASK):
        break
    gc.collect()


def never_begun(client: Any) -> None:
    client.chat.completions.create(model="slow", stream=True, **ASK).close()


@pytest.mark.parametrize("leave", [closed, left, left_events, dropped, never_begun])
def test_a_stream_left_half_way_is_no_error(client: Any, leave: Any) -> None:
    with capture() as captured:
        leave(client)
    call = the_call(captured)
    assert call.attributes["aiobs.request.abandoned"] is True
    assert call.status == 0
    assert "error.type" not in call.attributes
    assert call.attributes.get("aiobs.stream.chunks", 0) < 3
    assert "aiobs.truncated" not in call.attributes


@pytest.mark.parametrize(("model", "kind"), [("broken", "APIError"), ("cut", "APIConnectionError")])
def test_a_stream_that_breaks(client: Any, model: str, kind: str) -> None:
    with capture() as captured:
        with pytest.raises(getattr(openai, kind)):
            list(client.chat.completions.create(model=model, stream=True, **ASK))
    call = the_call(captured)
    assert call.status == 2
    assert call.attributes["error.type"].endswith(kind)
    assert call.attributes["aiobs.stream.chunks"] == 3


def test_an_error_answer(client: Any) -> None:
    with capture() as captured:
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(model="limited", **ASK)
    assert raised.value.status_code == 429
    call = the_call(captured)
    assert call.status == 2
    assert call.attributes["http.response.status_code"] == 429
    assert call.attributes["error.type"] == "openai.RateLimitError"
    assert call.message == "429 rate_limit_exceeded"


def test_nobody_listens() -> None:
    nobody = openai.OpenAI(base_url=f"http://127.0.0.1:{free_port()}/v1", api_key="x", max_retries=0)
    with capture() as captured:
        with pytest.raises(openai.APIConnectionError):
            nobody.embeddings.create(model="e", input="x")
    call = the_call(captured)
    assert call.name == "embeddings e"
    assert call.status == 2


def test_retries_are_one_call(client: Any) -> None:
    with capture() as captured:
        client.with_options(max_retries=2).chat.completions.with_raw_response.create(model="flaky", **ASK)
    call = the_call(captured)
    assert call.status == 0
    assert call.attributes["http.request.resend_count"] == 1


def test_completions_embeddings_and_responses(client: Any) -> None:
    with capture() as captured:
        client.completions.create(model="m", prompt="p")
        client.embeddings.create(model="e", input="x", encoding_format="float")
        client.responses.create(model="r", input="x", max_output_tokens=50)
        for _ in client.responses.create(model="r", input="x", stream=True):
            pass
        with client.responses.stream(model="r", input="x") as events:
            final = events.get_final_response()
    assert final.output_text == "one two three four"
    text, embeddings, response, streamed, events_call = clients(captured)
    assert text.name == "text_completion m"
    assert text.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert embeddings.attributes["gen_ai.usage.input_tokens"] == 3
    assert response.attributes["gen_ai.request.max_tokens"] == 50
    for call in (response, streamed, events_call):
        assert call.name == "chat r"
        assert call.attributes["gen_ai.response.id"] == "resp-1"
        assert call.attributes["gen_ai.usage.output_tokens"] == 5
        assert call.attributes["gen_ai.usage.cache_read.input_tokens"] == 2
        assert call.attributes["gen_ai.usage.reasoning.output_tokens"] == 1
        assert call.attributes["gen_ai.response.finish_reasons"] == ["completed"]
        assert "aiobs.request.abandoned" not in call.attributes
    assert streamed.attributes["aiobs.stream.chunks"] == events_call.attributes["aiobs.stream.chunks"] == 6


def test_raw_answers(client: Any) -> None:
    with capture() as captured:
        raw = client.chat.completions.with_raw_response.create(model="plain", **ASK)
        assert raw.parse().usage.completion_tokens == 5
        raw = client.chat.completions.with_raw_response.create(model="usage", stream=True, **ASK)
        assert len(list(raw.parse())) == 7
        with client.chat.completions.with_streaming_response.create(model="plain", **ASK) as response:
            assert response.parse().usage.completion_tokens == 5
        with client.chat.completions.with_streaming_response.create(model="usage", stream=True, **ASK) as response:
            assert len(list(response.parse())) == 7
        with client.chat.completions.with_streaming_response.create(model="slow", stream=True, **ASK) as response:
            for _ in response.iter_lines():
                break
    *whole, left_raw = clients(captured)
    assert len(whole) == 4
    for call in whole:
        assert call.attributes["gen_ai.usage.output_tokens"] == 5
        assert "aiobs.request.abandoned" not in call.attributes
    assert whole[1].attributes["aiobs.stream.chunks"] == whole[3].attributes["aiobs.stream.chunks"] == 7
    # Read by hand, and by nobody but the caller: that it was sent, and when it was let go, is all there is.
    assert left_raw.status == 0
    assert "gen_ai.usage.output_tokens" not in left_raw.attributes


def test_the_async_client(async_client: Any) -> None:
    async def ask() -> None:
        async with async_client:
            await async_client.chat.completions.create(model="plain", **ASK)
            stream = await async_client.chat.completions.create(model="slow", stream=True, **ASK)
            assert type(stream) is openai.AsyncStream
            assert len([chunk async for chunk in stream]) == 6
            async with async_client.chat.completions.stream(model="slow", **ASK) as events:
                async for _ in events:
                    break
            async with async_client.responses.stream(model="r", input="x") as events:
                assert (await events.get_final_response()).id == "resp-1"
            async with async_client.chat.completions.with_streaming_response.create(model="plain", **ASK) as response:
                assert (await response.json())["id"] == "x-1"
            with pytest.raises(openai.RateLimitError):
                await async_client.chat.completions.create(model="limited", **ASK)
            stream = await async_client.chat.completions.create(model="cut", stream=True, **ASK)
            with pytest.raises(openai.APIConnectionError):
                await read_all(stream)

    with capture() as captured:
        asyncio.run(ask())
    plain, stream, abandoned, response, raw, limited, cut = clients(captured)
    assert plain.attributes["gen_ai.usage.output_tokens"] == 5
    assert stream.attributes["aiobs.stream.chunks"] == 6
    assert stream.attributes["gen_ai.response.time_to_first_chunk"] > 0.02
    assert abandoned.attributes["aiobs.request.abandoned"] is True
    assert response.attributes["gen_ai.response.id"] == "resp-1"
    assert raw.attributes["gen_ai.usage.output_tokens"] == 5
    assert limited.attributes["error.type"] == "openai.RateLimitError"
    assert cut.status == 2
    assert cut.attributes["aiobs.stream.chunks"] == 3


def test_a_cancelled_task_is_no_error(async_client: Any) -> None:
    async def ask() -> None:
        async with async_client:
            stream = await async_client.chat.completions.create(model="slow", stream=True, **ASK)

            async def read() -> None:
                async for _ in stream:
                    pass

            task = asyncio.create_task(read())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with capture() as captured:
        asyncio.run(ask())
    call = the_call(captured)
    assert call.attributes["aiobs.request.abandoned"] is True
    assert call.status == 0


def test_calls_side_by_side_have_their_own_parents(async_client: Any) -> None:
    async def ask(number: int) -> None:
        with aiobs.span("asking", number=number):
            stream = await async_client.chat.completions.create(model="slow", stream=True, seed=number, **ASK)
            async for _ in stream:
                pass

    async def together() -> None:
        async with async_client:
            await asyncio.gather(*(ask(number) for number in range(8)))

    with capture() as captured:
        asyncio.run(together())
    asking = {span.span_id: span.attributes["number"] for span in captured.named("asking")}
    calls = clients(captured)
    assert len(calls) == 8
    assert all(asking[call.parent_id] == call.attributes["gen_ai.request.seed"] for call in calls)


def test_removed_it_leaves_no_trace(client: Any) -> None:
    before = openai.OpenAI.request, openai.Stream.close, openai.Stream.__init__
    with capture() as captured:
        assert openai.OpenAI.request is not before[0]
        stream = client.chat.completions.create(model="slow", stream=True, **ASK)
        next(stream)
        patches.remove("openai")
        assert (openai.OpenAI.request, openai.Stream.close, openai.Stream.__init__) == before
        assert len(list(stream)) == 5
        client.chat.completions.create(model="plain", **ASK)
    assert [call.name for call in clients(captured) if "gen_ai.operation.name" in call.attributes] == ["chat slow"]


def test_switched_off(client: Any) -> None:
    with capture(patches_off=("openai", "httpx")) as captured:
        client.chat.completions.create(model="plain", **ASK)
    assert not clients(captured)
