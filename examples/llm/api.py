"""The HTTP API that OpenAI's has made common, as far as this server has it: bodies of requests, shapes of answers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

TENANT_HEADER = "x-tenant"
REPLICA_HEADER = "x-replica"
"""On an answer of the router: who made it."""


class Wanted(BaseModel):
    """What every request can say. `ignore_eos`: go on to `max_tokens`, whatever the model says."""

    model: str
    max_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int = 0
    n: int = Field(1, ge=1, le=1)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] = {}
    ignore_eos: bool = False

    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        found = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return tuple(text for text in found if text)


class Completion(Wanted):
    """Body of ``/v1/completions``."""

    prompt: str


class Message(BaseModel):
    """One message of a chat."""

    role: str
    content: str


class Chat(Wanted):
    """Body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)

    @property
    def prompt(self) -> str:
        """The messages as the model reads them."""
        return "".join(f"{message.role}: {message.content}\n" for message in self.messages) + "assistant: "


@dataclass
class Frame:
    """What all documents of one answer share, and how they look in the chat or the completion API."""

    chat: bool
    number: int
    model: str

    def __post_init__(self) -> None:
        kind = "chat.completion" if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.number}"
        self._head: dict[str, Any] = {"id": name, "object": kind, "created": int(time.time()), "model": self.model}

    def whole(self, text: str, reason: str, usage: dict[str, int]) -> dict[str, Any]:
        """The answer in one document."""
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {**self._head, "choices": [{"index": 0, **said, "finish_reason": reason}], "usage": usage}

    def piece(self, text: str, reason: str) -> bytes:
        """An event of a streamed answer."""
        said = {"delta": {"content": text}} if self.chat else {"text": text}
        return self._event({"choices": [{"index": 0, **said, "finish_reason": reason or None}]})

    def usage(self, usage: dict[str, int]) -> bytes:
        """The event that says how many tokens there were."""
        return self._event({"choices": [], "usage": usage})

    def _event(self, document: dict[str, Any]) -> bytes:
        head = {**self._head, "object": "chat.completion.chunk"} if self.chat else self._head
        return event({**head, **document})


END_OF_STREAM = b"data: [DONE]\n\n"


def event(document: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def failure(status: int, message: str) -> dict[str, Any]:
    """The document that says what went wrong."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "code": status}}
