"""What the answers of OpenAI's API say about themselves: model, tokens, why they ended.

They come as the client's own objects, or, where the caller asked for the raw answer, as parsed JSON; both are read
the same way. Nothing of what was written in them is looked at, only whether there was something.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiobs import names

_PROVIDERS = (
    ("openai.azure.com", "azure.ai.openai"),
    ("ai.azure.com", "azure.ai.inference"),
    ("api.deepseek.com", "deepseek"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.x.ai", "x_ai"),
    ("amazonaws.com", "aws.bedrock"),
    ("googleapis.com", "gcp.gemini"),
)


def provider_of(host: str) -> str:
    """`gen_ai.provider.name` of a host; ``openai``, whose API it is, for those that are not known."""
    return next((name for end, name in _PROVIDERS if host == end or host.endswith("." + end)), "openai")


def get(it: Any, name: str) -> Any:
    """Field `name` of an object of the client or of a JSON object, None where it has none."""
    if isinstance(it, dict):
        return it.get(name)
    # Where the client's objects keep their fields; asking for one that is not there would cost microseconds.
    fields = getattr(it, "__dict__", None)
    return None if fields is None else fields.get(name)


def answer_attributes(answer: Any) -> dict[str, Any]:
    """What an answer, or the last event of a streamed one, says of itself."""
    inner = get(answer, "response")
    if inner is not None and get(answer, "type") is not None:
        answer = inner  # an event of the Responses API
    found: dict[str, Any] = {}
    for key, name in (("model", names.GEN_AI_RESPONSE_MODEL), ("id", names.GEN_AI_RESPONSE_ID)):
        value = get(answer, key)
        if isinstance(value, str) and value:
            found[name] = value
    found.update(usage_attributes(get(answer, "usage")))
    reasons = finish_reasons(get(answer, "choices") or ())
    if not reasons and get(answer, "object") == "response" and isinstance(get(answer, "status"), str):
        reasons = [get(get(answer, "incomplete_details"), "reason") or get(answer, "status")]
    if reasons:
        found[names.GEN_AI_RESPONSE_FINISH] = reasons
    return found


def usage_attributes(usage: Any) -> dict[str, Any]:
    """Tokens in and out, by either of the two sets of names the API has for them."""
    found: dict[str, Any] = {}
    for name, keys in (
        (names.GEN_AI_INPUT_TOKENS, ("prompt_tokens", "input_tokens")),
        (names.GEN_AI_OUTPUT_TOKENS, ("completion_tokens", "output_tokens")),
    ):
        count = next((value for value in (get(usage, key) for key in keys) if isinstance(value, int)), None)
        if count is not None:
            found[name] = count
    for name, part, keys in (
        (names.GEN_AI_CACHED_TOKENS, "cached_tokens", ("prompt_tokens_details", "input_tokens_details")),
        (names.GEN_AI_REASONING_TOKENS, "reasoning_tokens", ("completion_tokens_details", "output_tokens_details")),
    ):
        count = next((value for value in (get(get(usage, key), part) for key in keys) if isinstance(value, int)), None)
        if count:
            found[name] = count
    if found:
        found[names.USAGE_SOURCE] = "usage"
    return found


def finish_reasons(choices: Iterable[Any]) -> list[str]:
    """Why each choice ended, of those that say so."""
    return [reason for reason in (get(choice, "finish_reason") for choice in choices) if isinstance(reason, str)]
