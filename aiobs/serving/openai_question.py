"""The body of an OpenAI-compatible request, of which at most the first 64 KiB are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiobs.recorder import state
from aiobs.serving import openai_bodies as bodies

ASKS = ("messages", "prompt", "input")
"""One of these is in every request that is for a model."""
BODY_LIMIT = 64 << 10
COMPRESSED, MALFORMED = "compressed", "malformed"


class Question:
    """What is asked of a model.

    Attributes:
        facts: ``gen_ai.request.*``, once read.
        for_model: False where what was read is no question to a model.
        several: more than one choice is asked for.
        unread: why it could not be read, "" where it could.
        content: the body, kept where prompts are recorded.
    """

    __slots__ = ("_pieces", "_size", "content", "facts", "for_model", "several", "unread")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self.facts: dict[str, Any] = {}
        self.content: dict[str, Any] = {}
        self.for_model = True
        self.several = False
        self.unread = "" if headers.get("content-encoding", "identity") == "identity" else COMPRESSED

    def add(self, body: bytes) -> None:
        """A piece of the body passes by."""
        room = BODY_LIMIT - self._size
        if body and room > 0:
            self._pieces.append(bytes(body[:room]))
        self._size += len(body)

    def read(self) -> None:
        """Read what has come so far, and let go of it."""
        text = b"".join(self._pieces).decode("utf-8", "replace")
        self._pieces = []
        if self.unread or not text:
            return
        whole = self._size <= BODY_LIMIT
        try:
            body = bodies.fields_of(text) if whole else bodies.leading_fields(text)
        except ValueError:
            self.unread = MALFORMED
            return
        self.facts = bodies.request_facts(body)
        self.for_model = not whole or any(key in body for key in ASKS)
        self.several = body.get("n") not in (None, 1)
        if state.settings.serving_content:
            self.content = body
