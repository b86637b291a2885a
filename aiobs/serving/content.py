"""Prompts and completions: recorded only where ``AIOBS_SERVING_CONTENT=1`` asks for it, cut and redacted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aiobs import names
from aiobs.guard import say_once
from aiobs.recorder import state
from aiobs.serving.secrets import redact

MARGIN = 512
"""Characters beyond the limit that are redacted with the rest, so that a cut never saves half a secret."""
MESSAGES_LIMIT = 64


def content_facts(question: Mapping[str, Any], answer: str, reason: str) -> dict[str, str]:
    """``gen_ai.input.messages`` and ``gen_ai.output.messages``: JSON texts; nothing where a redaction failed."""
    limit = state.settings.serving_content_limit
    try:
        facts = {names.GEN_AI_INPUT_MESSAGES: json.dumps(list(_asked(question, limit)), ensure_ascii=False)}
        if answer:
            said = {"role": "assistant", "parts": [_part(answer, limit)], "finish_reason": reason}
            facts[names.GEN_AI_OUTPUT_MESSAGES] = json.dumps([said], ensure_ascii=False)
    except Exception as error:  # noqa: BLE001 - a redaction of the user's may raise anything
        say_once("serving.content", "aiobs: prompts are not recorded, a redaction failed: %s", type(error).__name__)
        return {}
    return facts


def _part(text: str, limit: int) -> dict[str, str]:
    return {"type": "text", "content": redact(text[: limit + MARGIN])[:limit]}


def _asked(question: Mapping[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    """The messages of a request, all together at most `limit` characters, the last ones first served."""
    found: list[dict[str, Any]] = []
    for role, text in reversed(list(_texts(question))):
        if limit <= 0:
            break
        part = _part(text, limit)
        limit -= len(part["content"])
        found.append({"role": role, "parts": [part]})
    yield from reversed(found)


def _texts(question: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Role and text of each message; a bare prompt is one of the user."""
    asked = question.get("messages", question.get("input", question.get("prompt")))
    instructions = question.get("instructions")
    if isinstance(instructions, str):
        yield "system", instructions
    for message in asked[-MESSAGES_LIMIT:] if isinstance(asked, list) else [asked]:
        if isinstance(message, str):
            yield "user", message
        elif isinstance(message, Mapping):
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
            yield str(message.get("role") or "user")[:32], "\n".join(text for text in texts if isinstance(text, str))
