"""Prompts, completions and secrets: what is recorded of them, and what never is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from aiobs import serving  # noqa: E402
from aiobs.serving.secrets import redact, shown_path, shown_query  # noqa: E402

from .asgi_serving import served  # noqa: E402
from .openai_app import app  # noqa: E402

KEY = "sk-proj-abcdefghijklmnop1234567890"
CARD = "4111 1111 1111 1111"


def recorded(body: dict[str, Any], path: str = "/v1/chat/completions", **settings: Any) -> tuple[Any, Any]:
    """Input and output messages as recorded, None where they are not."""
    with served(app, **settings) as it:
        httpx.post(it.url + path, json=body)
    facts = it.request().attributes
    found = [facts.get(f"gen_ai.{side}.messages") for side in ("input", "output")]
    asked, said = (None if text is None else json.loads(text) for text in found)
    return asked, said


def test_nothing_is_recorded_unless_asked_for() -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "secret plan"}], "stream": True}
    with served(app) as it:
        httpx.post(
            f"{it.url}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {KEY}", "cookie": "id=77aa", "x-api-key": "k9"},
        )
    written = str(it.captured.spans)
    for secret in ("secret plan", KEY, "77aa", "k9", "t0 data"):
        assert secret not in written


def test_recorded_when_asked_for_cut_and_redacted() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": f"I am ann@example.org, key {KEY}, card {CARD}, order 1234"}, {"type": "image_url"}]},
    ]  # fmt: skip
    asked, said = recorded({"model": "tiny", "messages": messages}, serving_content=True)
    assert [message["role"] for message in asked] == ["system", "user"]
    assert asked[1]["parts"][0]["content"] == "I am [mail], key [key], card [card], order 1234"
    assert said == [
        {"role": "assistant", "parts": [{"type": "text", "content": "said to [mail]"}], "finish_reason": "stop"}
    ]
    long = [{"role": "user", "content": "old " * 100}, {"role": "user", "content": f"{'x' * 20} {KEY}"}]
    asked, _ = recorded({"model": "tiny", "messages": long}, serving_content=True, serving_content_limit=30)
    assert sum(len(message["parts"][0]["content"]) for message in asked) == 30
    assert asked[-1]["parts"][0]["content"] == f"{'x' * 20} [key]"
    assert asked[0]["parts"][0]["content"] == "old "


def test_streamed_completions_and_bare_prompts() -> None:
    asked, said = recorded({"model": "tiny", "prompt": "a prompt"}, "/v1/completions", serving_content=True)
    assert asked[0] == {"role": "user", "parts": [{"type": "text", "content": "a prompt"}]}
    assert said[0]["parts"][0]["content"] == "said"
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
    _, said = recorded(body, serving_content=True)
    assert said[0]["parts"][0]["content"] == "".join(f"t{number} data: " for number in range(7))
    assert said[0]["finish_reason"] == "length"
    _, said = recorded(body, serving_content=True, serving_content_limit=12)
    assert said[0]["parts"][0]["content"] == "t0 data: t1 "
    asked, said = recorded({"model": "tiny", "input": "q", "stream": True}, "/v1/responses", serving_content=True)
    assert said[0]["parts"][0]["content"] == "onetwothree" and asked[0]["parts"][0]["content"] == "q"


def test_a_redaction_of_ones_own() -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "project Nightingale"}]}
    remove = serving.redact_with(lambda text: text.replace("Nightingale", "[project]"))
    try:
        asked, _ = recorded(body, serving_content=True)
        assert asked[0]["parts"][0]["content"] == "project [project]"
    finally:
        remove()
    remove = serving.redact_with(lambda text: str(1 / 0))
    try:
        assert recorded(body, serving_content=True) == (None, None)
    finally:
        remove()
    asked, _ = recorded(body, serving_content=True)
    assert "Nightingale" in str(asked)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("page=2&q=cats", "page=2&q=cats"),
        ("token=abc&x=1", "token=REDACTED&x=1"),
        ("X-Amz-Signature=ff00&X-Amz-Credential=me&partNumber=1", "X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED&partNumber=1"),
        ("sig=1&api_key=2&API-KEY=3&access%5Ftoken=4", "sig=REDACTED&api_key=REDACTED&API-KEY=REDACTED&access%5Ftoken=REDACTED"),
        (f"q={KEY}", "q=REDACTED"),
        ("next=https://ann:pw@example.org/", "next=REDACTED"),
        ("a=&b&flag", "a=&b&flag"),
        ("c2VjcmV0c2VjcmV0c2VjcmV0", "REDACTED"),
    ],
)  # fmt: skip
def test_secrets_in_queries(query: str, shown: str) -> None:
    assert shown_query(query) == shown


def test_secrets_in_paths() -> None:
    assert shown_path("http://ann:pw@example.org/a") == "http://REDACTED@example.org/a"
    assert shown_path(f"/keys/{KEY}/x") == "/keys/REDACTED/x"
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"
    assert token not in shown_path(f"/login/{token}")
    assert shown_path("/v1/models/org@name/x") == "/v1/models/org@name/x"
    assert len(shown_path("/" + "x" * 9999)) == 1024


@given(st.text(max_size=300))
def test_any_text_can_be_shown(text: str) -> None:
    assert len(shown_query(text)) <= 2000 and len(shown_path(text)) <= 4000
    assert isinstance(redact(text), str)


def test_what_is_no_secret_stays() -> None:
    text = "Order 1234 5678 9012 3456 of 2026-11-24 costs 12.50; call +49 30 1234567; see https://example.org/a?b=c."
    assert redact(text) == text
