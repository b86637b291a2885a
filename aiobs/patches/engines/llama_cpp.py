"""The llama-cpp-python patch: completions and chats of a ``Llama``, whole or streamed, and its embeddings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from importlib import import_module
from typing import Any, Final

from aiobs import names
from aiobs.guard import guarded, swallow
from aiobs.patches.engines.generation import Generation, short_name
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.wrapping import Live

PLACE: Final = "patches.llama_cpp"
PROVIDER: Final = "llama_cpp"


class _Asked(threading.local):
    """What this thread was asked for, where completions are a part of it."""

    def __init__(self) -> None:
        self.operation = "text_completion"


class LlamaCppPatch(EnginePatch):
    """Class ``Llama``. One that is used by several threads at once is not safe, so at any time it has one request."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = _Asked()
        self._running: dict[int, _Completion] = {}

    def place(self) -> None:
        kind = import_module("llama_cpp.llama").Llama
        self.put(kind, "create_completion", self._create_completion)
        self.put(kind, "create_chat_completion", self._create_chat_completion)
        self.put(kind, "create_embedding", self._create_embedding)
        self.put(kind, "generate", self._generate)

    def _create_chat_completion(self, original: Any, live: Live) -> Any:
        """A chat is a completion of a prompt made from its messages, by the method that is replaced too."""

        def create_chat_completion(self_: Any, *args: Any, **kwargs: Any) -> Any:
            before, self._asked.operation = self._asked.operation, "chat" if live else "text_completion"
            try:
                return original(self_, *args, **kwargs)
            finally:
                self._asked.operation = before

        return create_chat_completion

    def _create_completion(self, original: Any, live: Live) -> Any:
        def create_completion(self_: Any, *args: Any, **kwargs: Any) -> Any:
            completion = self._begin(self_, kwargs) if live and is_recorded() else None
            if completion is None:
                return original(self_, *args, **kwargs)
            self._running[id(self_)] = completion
            try:
                answer = original(self_, *args, **kwargs)
            except BaseException as error:
                self._running.pop(id(self_), None)
                completion.request.failed(error)
                raise
            if isinstance(answer, dict):
                self._running.pop(id(self_), None)
                completion.whole(answer)
                return answer
            return self._streamed(completion, answer)

        return create_completion

    def _begin(self, llama: Any, parameters: dict[str, Any]) -> _Completion | None:
        try:
            return _Completion(llama, self._asked.operation, parameters)
        except Exception as error:
            self.remove()
            swallow(PLACE, error)
            return None

    def _streamed(self, completion: _Completion, answer: Iterator[Any]) -> Generator[Any, None, None]:
        self._running.pop(completion.key, None)
        try:
            while True:
                self._running[completion.key] = completion
                try:
                    chunk = next(answer)
                except StopIteration:
                    return
                finally:
                    self._running.pop(completion.key, None)
                completion.chunk(chunk)
                yield chunk
        except GeneratorExit:
            completion.request.aborted("closed")
            raise
        except BaseException as error:
            completion.request.failed(error)
            raise
        finally:
            completion.request.aborted("ended early")  # nothing where it was whole
            close: Callable[[], None] | None = getattr(answer, "close", None)
            if close is not None:
                close()

    def _generate(self, original: Any, live: Live) -> Any:
        def generate(self_: Any, tokens: Any, *args: Any, **kwargs: Any) -> Any:
            completion = self._running.get(id(self_)) if live else None
            made = original(self_, tokens, *args, **kwargs)
            if completion is None:
                return made
            completion.request.facts[names.GEN_AI_INPUT_TOKENS] = len(tokens)
            return completion.tokens(made)

        return generate

    def _create_embedding(self, original: Any, live: Live) -> Any:
        def create_embedding(self_: Any, input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - the library's name
            request = self._begin_embedding(self_, input) if live and is_recorded() else None
            if request is None:
                return original(self_, input, *args, **kwargs)
            try:
                answer = original(self_, input, *args, **kwargs)
            except BaseException as error:
                request.failed(error)
                raise
            _embedded(request, answer)
            return answer

        return create_embedding

    def _begin_embedding(self, llama: Any, texts: Any) -> Generation | None:
        try:
            request = Generation(_name(llama), "embeddings", {}, provider=PROVIDER)
            request.facts[names.REQUEST_INPUTS] = len(texts) if isinstance(texts, list) else 1
            return request
        except Exception as error:
            self.remove()
            swallow(PLACE, error)
            return None


class _Completion:
    """One completion, whole or streamed.

    Attributes:
        key: by which its ``Llama`` is known.
    """

    def __init__(self, llama: Any, operation: str, parameters: dict[str, Any]) -> None:
        self.key = id(llama)
        self.request = Generation(_name(llama), operation, parameters, provider=PROVIDER)
        self._llama = llama
        self._last = -1

    def tokens(self, made: Generator[int, Any, Any]) -> Generator[int, Any, Any]:
        """Pass tokens on as they are made."""
        report = self.request.token
        given: Any = None
        try:
            while True:
                try:
                    token = made.send(given)
                except StopIteration as stop:
                    return stop.value
                self._last = token
                report()
                given = yield token
        finally:
            made.close()

    @guarded(PLACE)
    def whole(self, answer: dict[str, Any]) -> None:
        """The answer is there."""
        usage = answer.get("usage", {})
        facts = self.request.facts
        facts[names.GEN_AI_INPUT_TOKENS] = usage.get("prompt_tokens", facts.get(names.GEN_AI_INPUT_TOKENS, 0))
        self.request.finished(answer["choices"][0].get("finish_reason") or "stop", usage.get("completion_tokens"))

    @guarded(PLACE)
    def chunk(self, chunk: dict[str, Any]) -> None:
        """A chunk is about to be handed out; the last one says why it is the last."""
        reason = chunk["choices"][0].get("finish_reason")
        if reason is not None:
            # The token that ends an answer is made like any other but is no part of it.
            ended = self._last >= 0 and reason == "stop" and self._ends(self._last)
            self.request.finished(reason, self.request.tokens - ended)

    def _ends(self, token: int) -> bool:
        return bool(import_module("llama_cpp").llama_vocab_is_eog(self._llama._model.vocab, token))


@guarded(PLACE)
def _embedded(request: Generation, answer: Any) -> None:
    request.facts[names.GEN_AI_INPUT_TOKENS] = answer["usage"]["prompt_tokens"]
    vector = answer["data"][0]["embedding"]
    if vector and isinstance(vector[0], float):
        request.facts[names.EMBEDDINGS_DIMENSION] = len(vector)
    request.finished("stop")


def _name(llama: Any) -> str:
    """The model's own name, else that of its file."""
    own = (getattr(llama, "metadata", None) or {}).get("general.name")
    return short_name(own or getattr(llama, "model_path", ""), type(llama).__name__)
