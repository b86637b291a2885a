"""What the bodies of OpenAI-compatible requests and answers say, as attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiobs import names

TEXT_LIMIT = 256
"""Longest model name, id or reason recorded."""
CHOICES_LIMIT = 16
"""Choices whose finish reasons are recorded."""
_OUTPUTS = ("tool_calls", "reasoning_content", "reasoning", "refusal", "function_call", "audio")
"""Where a streamed delta may hold output, besides its content."""

_REQUEST = (
    (names.GEN_AI_REQUEST_MODEL, ("model",), str),
    (names.GEN_AI_REQUEST_STREAM, ("stream",), bool),
    (names.GEN_AI_REQUEST_MAX_TOKENS, ("max_tokens", "max_completion_tokens", "max_output_tokens"), int),
    (names.GEN_AI_REQUEST_TEMPERATURE, ("temperature",), float),
    (names.GEN_AI_REQUEST_TOP_P, ("top_p",), float),
    (names.GEN_AI_REQUEST_TOP_K, ("top_k",), int),
    (names.GEN_AI_REQUEST_SEED, ("seed",), int),
    (names.GEN_AI_REQUEST_CHOICES, ("n",), int),
    (names.GEN_AI_REQUEST_FREQUENCY_PENALTY, ("frequency_penalty",), float),
    (names.GEN_AI_REQUEST_PRESENCE_PENALTY, ("presence_penalty",), float),
)  # fmt: skip


def request_facts(body: Mapping[str, Any]) -> dict[str, Any]:
    """``gen_ai.request.*`` of a request's body."""
    facts: dict[str, Any] = {}
    for attribute, keys, kind in _REQUEST:
        for key in keys:
            value = _of_kind(body.get(key), kind)
            if value is not None:
                facts[attribute] = value
                break
    return facts


def _of_kind(value: Any, kind: type) -> Any:
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if kind is str:
        return value[:TEXT_LIMIT] if isinstance(value, str) else None
    if kind is float and isinstance(value, (int, float)):
        return float(value)
    return value if kind is int and isinstance(value, int) else None


def answer_facts(body: Mapping[str, Any]) -> dict[str, Any]:
    """``gen_ai.response.*`` and ``gen_ai.usage.*`` of an answer's body, or of one event of a streamed one.

    Events of the responses API hold what is asked for under ``response``.
    """
    inner = body.get("response")
    if isinstance(inner, dict):
        body = inner
    facts: dict[str, Any] = {}
    for attribute, key in ((names.GEN_AI_RESPONSE_ID, "id"), (names.GEN_AI_RESPONSE_MODEL, "model")):
        value = body.get(key)
        if isinstance(value, str) and value:
            facts[attribute] = value[:TEXT_LIMIT]
    usage = body.get("usage")
    if isinstance(usage, dict):
        facts.update(usage_facts(usage))
    return facts


def usage_facts(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens of a ``usage`` object, of either naming."""
    found = {
        names.GEN_AI_INPUT_TOKENS: _first(usage, "prompt_tokens", "input_tokens"),
        names.GEN_AI_OUTPUT_TOKENS: _first(usage, "completion_tokens", "output_tokens"),
        names.GEN_AI_CACHED_TOKENS: _first(
            _inner(usage, "prompt_tokens_details", "input_tokens_details"), "cached_tokens"
        ),
        names.GEN_AI_REASONING_TOKENS: _first(
            _inner(usage, "completion_tokens_details", "output_tokens_details"), "reasoning_tokens"
        ),
    }
    return {key: value for key, value in found.items() if value is not None}


def _first(body: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = body.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _inner(body: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = body.get(key)
        if isinstance(value, dict):
            return value
    return {}


def finish_reasons(body: Mapping[str, Any]) -> dict[int, str]:
    """Finish reason by choice, as far as `body` (an answer or an event) tells."""
    found: dict[int, str] = {}
    for place, choice in enumerate(_choices(body)):
        reason, index = choice.get("finish_reason"), choice.get("index", place)
        if isinstance(reason, str) and isinstance(index, int):
            found[index] = reason[:TEXT_LIMIT]
    inner = body.get("response", body)
    if isinstance(inner, dict) and inner.get("object") == "response":
        status = inner.get("status")
        reason = _inner(inner, "incomplete_details").get("reason")
        if status in ("completed", "incomplete", "failed", "cancelled"):
            found[0] = str(reason or {"completed": "stop"}.get(status, status))[:TEXT_LIMIT]
    return found


def error_type(body: Mapping[str, Any]) -> str:
    """The type that an error body gives, "" where there is none."""
    error = body.get("error", body)
    if isinstance(error, dict):
        for key in ("type", "code"):
            if isinstance(error.get(key), str) and error[key]:
                return str(error[key])[:TEXT_LIMIT]
    return ""


def holds_output(event: Any) -> bool:
    """Whether a streamed event carries output of the model: a text, tool call or reasoning, not only a role."""
    if not isinstance(event, dict):
        return False
    kind = event.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        return kind.endswith(".delta")
    return any(_has_output(choice) for choice in _choices(event))


def _has_output(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return bool(choice.get("text"))
    return bool(delta.get("content")) or any(map(delta.get, _OUTPUTS))


def text_of(event: Mapping[str, Any]) -> str:
    """The text in a streamed event, or in an answer's first choice."""
    kind = event.get("type")
    if isinstance(kind, str) and kind == "response.output_text.delta":
        return str(event.get("delta") or "")
    for choice in _choices(event):
        part = choice.get("delta", choice.get("message"))
        text = part.get("content") if isinstance(part, dict) else choice.get("text")
        if isinstance(text, str):
            return text
    return ""


def _choices(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    choices = body.get("choices")
    return [it for it in choices[:CHOICES_LIMIT] if isinstance(it, dict)] if isinstance(choices, list) else []


def fields_of(text: str) -> dict[str, Any]:
    """The fields of a JSON object as far as `text` goes: of one that was cut, those before the cut.

    Raises:
        ValueError: it is no JSON object, or malformed before its end.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - malformed like the others
    return found


_decode = json.JSONDecoder().raw_decode


def leading_fields(text: str) -> dict[str, Any]:
    """The fields of a JSON object whose end is missing: those that are whole."""
    found: dict[str, Any] = {}
    place = text.find("{") + 1
    try:
        while place > 0:
            key, place = _decode(text, _skip(text, place))
            place = _skip(text, place)
            if text[place : place + 1] != ":" or not isinstance(key, str):
                break
            value, place = _decode(text, _skip(text, place + 1))
            found[key] = value
            place = _skip(text, place)
            if text[place : place + 1] != ",":
                break
            place += 1
    except (ValueError, RecursionError):
        pass  # where the text was cut
    return found


def trailing_usage(text: str) -> dict[str, Any]:
    """The ``usage`` object near the end of a JSON text whose beginning is missing."""
    place = text.rfind('"usage"')
    if place < 0:
        return {}
    try:
        value, _ = _decode(text, _skip(text, text.index(":", place) + 1))
    except (ValueError, RecursionError):
        return {}
    return {"usage": value}


def _skip(text: str, place: int) -> int:
    while text[place : place + 1].isspace():
        place += 1
    return place
