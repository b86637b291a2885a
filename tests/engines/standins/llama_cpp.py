"""A stand-in of llama-cpp-python's ``Llama`` (0.3), for machines where the real one, which compiles llama.cpp, is not
installed: completions, whole or streamed, made from ``generate()``; chats made from completions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

END = 2
PREFILL_S, STEP_S = 0.02, 0.01


class Llama:
    def __init__(self, model_path: str = "/models/tiny.gguf") -> None:
        self.model_path = model_path
        self.metadata = {"general.name": "tiny llama"}
        self._model = SimpleNamespace(vocab=None)
        self.made = 10

    def generate(self, tokens: list[int], temp: float = 0.8) -> Iterator[int]:
        """Create a generator of tokens from a prompt."""
        if tokens == [13]:
            raise RuntimeError("llama_decode returned -1")
        time.sleep(PREFILL_S)
        for number in range(self.made):
            if number:
                time.sleep(STEP_S)
            yield 100 + number
        yield END

    def _create_completion(self, prompt: Any, max_tokens: int, stream: bool) -> Iterator[Any]:
        tokens = prompt if isinstance(prompt, list) else [1, *map(ord, prompt)]
        made: list[int] = []
        reason = "length"
        for token in self.generate(tokens):
            if token == END:
                reason = "stop"
                break
            made.append(token)
            last = len(made) >= max_tokens
            if stream and not last:
                yield {"choices": [{"text": "x", "finish_reason": None}]}
            if last:
                break
        if stream:
            yield {"choices": [{"text": "", "finish_reason": reason}]}
            return
        usage = {"prompt_tokens": len(tokens), "completion_tokens": len(made)}
        yield {"choices": [{"text": "x" * len(made), "finish_reason": reason}], "usage": usage}

    def create_completion(
        self, prompt: Any, max_tokens: int = 16, temperature: float = 0.8, stream: bool = False
    ) -> Any:
        made = self._create_completion(prompt, max_tokens, stream)
        return made if stream else next(made)

    def __call__(self, prompt: Any, max_tokens: int = 16, temperature: float = 0.8, stream: bool = False) -> Any:
        return self.create_completion(prompt, max_tokens=max_tokens, temperature=temperature, stream=stream)

    def create_chat_completion(self, messages: Any, max_tokens: int = 16, stream: bool = False) -> Any:
        return self.create_completion(messages[0]["content"], max_tokens=max_tokens, stream=stream)

    def create_embedding(self, input: Any, model: str | None = None) -> Any:
        return {"data": [{"embedding": [0.0, 1.0]}], "usage": {"prompt_tokens": 4, "total_tokens": 4}}


def install(monkeypatch: Any) -> Any:
    """Put it where llama-cpp-python would be; returns the package."""
    package, module = ModuleType("llama_cpp"), ModuleType("llama_cpp.llama")
    package.Llama = module.Llama = Llama  # type: ignore[attr-defined]
    package.llama_vocab_is_eog = lambda _vocab, token: token == END  # type: ignore[attr-defined]
    for it in (package, module):
        monkeypatch.setitem(sys.modules, it.__name__, it)
    return package
