"""The reference engine behind its HTTP server: what callers get and what is recorded of it, with a model that fails,
callers that leave, and requests that are wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from aiobs import names
from aiobs.telemetry import STATUS_ERROR
from aiobs.testing import Captured, CapturedSpan, capture

from .llm_example import MODEL, Engine, Steady, create_app
from .processes import free_port


@contextmanager
def serving(model: Any, **limits: Any) -> Iterator[httpx.Client]:
    """A server of `model` in a thread of this process, and a client for it."""
    port = free_port()
    app = create_app(MODEL, lambda dispatch: Engine(model, dispatch, **limits))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def ask(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "Hello", "max_tokens": 4, "ignore_eos": True, **more}


def events(text: str) -> list[Any]:
    found = [line[6:] for line in text.split("\n\n") if line]
    return [json.loads(each) if each != "[DONE]" else each for each in found]


def served(captured: Captured, path: str = "/v1/completions") -> CapturedSpan:
    (found,) = [span for span in captured.spans if span.kind == 2 and span.attributes.get("url.path") == path]
    return found


def wait_idle(client: httpx.Client) -> dict[str, Any]:
    """Until the engine has nothing to do."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.get("/health").json()
        if not found["running"] + found["waiting"]:
            return found
        time.sleep(0.01)
    raise AssertionError(found)


def test_whole_and_streamed_answers() -> None:
    with capture() as captured, serving(Steady()) as client:
        whole = client.post("/v1/completions", json=ask()).json()
        chat = client.post(
            "/v1/chat/completions",
            json={"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "stream": True},
            headers={"x-tenant": "acme"},
        )
    assert whole["choices"][0] == {"index": 0, "text": "aaaa", "finish_reason": "length"}
    assert whole["usage"] == {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}
    *pieces, last = events(chat.text)
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == "aaa"
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None, None, "length"]
    assert last == "[DONE]"
    span = served(captured, "/v1/chat/completions")
    said = span.attributes
    assert said[names.TENANT] == "acme"
    assert (said[names.GEN_AI_OPERATION], said[names.GEN_AI_OUTPUT_TOKENS]) == ("chat", 3)
    assert said[names.GEN_AI_RESPONSE_FINISH] == ["length"]
    assert said[names.USAGE_SOURCE] == "engine"
    assert {"queue", "prefill", "decode"} <= {child.name for child in captured.children(span)}
    assert served(captured).attributes[names.GEN_AI_OPERATION] == "text_completion"


def test_stop_texts_end_the_answer_and_are_not_part_of_it() -> None:
    with serving(Steady()) as client:
        streamed = events(client.post("/v1/completions", json=ask(max_tokens=50, stop="aaa", stream=True)).text)
        whole = client.post("/v1/completions", json=ask(max_tokens=50, stop=["b", "aa"])).json()
    assert "".join(piece["choices"][0]["text"] for piece in streamed[:-1]) == ""
    assert whole["choices"][0] == {"index": 0, "text": "", "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (ask(max_tokens=0), 400, "max_tokens"),
        (ask(n=2), 400, "n: "),
        (ask(prompt=5), 400, "prompt"),
        (ask(model="other"), 404, "other"),
        (ask(max_tokens=10_000), 400, "max_tokens=10000"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(body: dict[str, Any], status: int, said: str) -> None:
    with serving(Steady()) as client:
        answer = client.post("/v1/completions", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_a_failure_before_the_first_byte_is_a_500() -> None:
    for stream in (True, False):
        with capture() as captured, serving(Steady(fails=[0])) as client:
            answer = client.post("/v1/completions", json=ask(stream=stream))
        assert answer.status_code == 500
        assert "MemoryError" in answer.json()["error"]["message"]
        span = served(captured)
        assert span.status == STATUS_ERROR
        assert span.attributes["error.type"]
        assert [child.status for child in captured.children(span) if child.name == "prefill"] == [STATUS_ERROR]


def test_a_failure_in_the_stream_is_an_event_and_a_failed_span() -> None:
    with capture() as captured, serving(Steady(fails=[3])) as client:
        answer = client.post("/v1/completions", json=ask(max_tokens=9, stream=True))
        again = client.post("/v1/completions", json=ask())
    assert answer.status_code == 200
    *pieces, last = events(answer.text)
    assert len(pieces) == 3
    assert "MemoryError" in last["error"]["message"]
    assert again.status_code == 200
    failed, fine = sorted((span for span in captured.spans if span.kind == 2), key=lambda span: span.start_ns)
    assert failed.status == STATUS_ERROR
    assert [child.status for child in captured.children(failed) if child.name == "decode"] == [STATUS_ERROR]
    assert fine.status == 0


@pytest.mark.parametrize("stream", [True, False])
def test_callers_who_leave_free_the_engine(stream: bool) -> None:
    body = ask(max_tokens=1500, stream=stream)
    with capture() as captured, serving(Steady(0.02), max_batch=1) as client:
        with httpx.Client(base_url=client.base_url, trust_env=False) as caller:
            if stream:
                with caller.stream("POST", "/v1/completions", json=body) as response:
                    lines = response.iter_lines()
                    next(lines)
                    leave_at_once(client, body)
            else:
                caller.timeout = httpx.Timeout(0.5)
                thread = threading.Thread(target=leave_at_once, args=(client, body), kwargs={"after_s": 0.2})
                thread.start()
                with pytest.raises(httpx.ReadTimeout):
                    caller.post("/v1/completions", json=body)
                thread.join()
        assert wait_idle(client)["kv_usage"] == 0
    spans = sorted((span for span in captured.spans if span.kind == 2 and "/v1" in span.name), key=lambda s: s.start_ns)
    decoding, queued = spans
    assert [child.name for child in captured.children(decoding)][:3] == ["queue", "prefill", "decode"]
    assert [child.name for child in captured.children(queued)][:1] == ["queue"]
    for span in spans:
        assert span.attributes[names.REQUEST_ABORTED] == "disconnected"
        assert span.attributes[names.REQUEST_DISCONNECTED] is True
        assert names.TIME_PER_OUTPUT_TOKEN not in span.attributes
        assert {span.status, *(child.status for child in captured.children(span))} == {0}


def leave_at_once(client: httpx.Client, body: dict[str, Any], after_s: float = 0.0) -> None:
    """Ask, and leave while the request still waits for the engine."""
    time.sleep(after_s)
    with httpx.Client(base_url=client.base_url, trust_env=False, timeout=0.15) as caller:
        with pytest.raises(httpx.ReadTimeout):
            caller.post("/v1/completions", json=body)
