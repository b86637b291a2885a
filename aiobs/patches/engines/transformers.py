"""The Hugging Face Transformers patch: ``generate()``, whatever way it decodes.

The moments come from the one place where every decoding loop asks whether to go on: it is asked after a token has
been chosen and, on a GPU, has arrived. Nothing is put into the lists of processors and criteria, nothing is
attached to the model, and nothing is computed on tensors before the last token is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.patches.engines.generation import Generation, short_name
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.patches.engines.streamers import made_in
from aiobs.wrapping import Live, MakeWrapper

PLACE: Final = "patches.transformers"
PROVIDER: Final = "transformers"
MODES: Final = {"_sample": "", "_beam_search": "beam", "_assisted_decoding": "assisted"}
"""Methods that decode, and what they are called; sampling and greedy search are one method."""
REASONS_LISTED: Final = 128


class _Running(threading.local):
    """The call of ``generate()`` that this thread is in."""

    def __init__(self) -> None:
        self.call: Call | None = None


running = _Running()


class TransformersPatch(EnginePatch):
    """``GenerationMixin.generate``, which every generating model of the library has or calls."""

    def place(self) -> None:
        library = import_module("transformers.generation.utils")
        mixin = library.GenerationMixin
        self.put(mixin, "generate", self._generate)
        for name in MODES:
            self.put_if_there(mixin, name, self._decode(name))
        self.put_if_there(mixin, "_has_unfinished_sequences", self._goes_on)
        self.put(library.StoppingCriteriaList, "__call__", self._stopping)

    def _generate(self, original: Any, live: Live) -> Any:
        from torch.compiler import is_compiling

        def generate(self_: Any, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or not live or running.call is not None or not is_recorded():
                return original(self_, *args, **kwargs)
            call = None
            try:
                call = Call(self_, args, kwargs)
            except Exception as error:
                self.remove()
                swallow(PLACE, error)
            if call is None:
                return original(self_, *args, **kwargs)
            running.call = call
            try:
                result = original(self_, *args, **kwargs)
            except BaseException as error:
                call.failed(error)
                raise
            finally:
                running.call = None
            call.returned(result)
            return result

        return generate

    def _decode(self, name: str) -> MakeWrapper:
        from torch.compiler import is_compiling

        def make(original: Any, live: Live) -> Any:
            def decode(self_: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
                if not is_compiling() and live:
                    call = running.call
                    if call is not None and call.model is self_:
                        call.decodes(MODES[name], input_ids, kwargs.get("generation_config"))
                return original(self_, input_ids, *args, **kwargs)

            return decode

        return make

    def _goes_on(self, original: Any, live: Live) -> Any:
        from torch.compiler import is_compiling

        def _has_unfinished_sequences(self_: Any, *args: Any, **kwargs: Any) -> Any:
            more = original(self_, *args, **kwargs)
            if not is_compiling() and live:
                call = running.call
                if call is not None and call.model is self_:
                    call.asked(more)
            return more

        return _has_unfinished_sequences

    def _stopping(self, original: Any, live: Live) -> Any:
        from torch.compiler import is_compiling

        def __call__(self_: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_compiling() and live:
                call = running.call
                if call is not None and call.streamed:
                    call.sequences = input_ids
            return original(self_, input_ids, *args, **kwargs)

        return __call__


def _quietly(method: Callable[..., None]) -> Callable[..., None]:
    def call(*args: Any) -> None:
        try:
            method(*args)
        except Exception as error:
            swallow(PLACE, error)

    return call


class Call:
    """One call of ``generate()``.

    Attributes:
        model: whose it is; an assistant's own calls within it are a part of it.
        streamed: there is a streamer, whose reader may finish before ``generate()`` returns.
        sequences: where it is streamed, what the tokens so far are.
    """

    __slots__ = ("_config", "_decoded", "_inputs", "_prompt", "_request", "_rounds", "model", "sequences", "streamed")

    def __init__(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        begun_ns = monotonic_ns()
        self.model = model
        self.sequences: Any = None
        self._config: Any = None
        self._prompt = self._rounds = 0
        self._decoded = False
        given = args[0] if args else None
        for key in ("inputs", "input_ids", "inputs_embeds", "input_features"):
            given = kwargs.get(key) if given is None else given
        self._inputs = (given, kwargs.get("attention_mask"))
        streamer = kwargs.get("streamer")
        self.streamed = streamer is not None
        name = short_name(getattr(model, "name_or_path", ""), type(model).__name__)
        context, made_ns = made_in(streamer)
        parameters = {"stream": True} if self.streamed else {}
        arguments: dict[str, Any] = {"provider": PROVIDER, "now_ns": made_ns or begun_ns, "waits": True}
        if context is None:
            self._request = Generation(name, "text_completion", parameters, **arguments)
        else:
            self._request = context.run(Generation, name, "text_completion", parameters, **arguments)
        self._request.scheduled(begun_ns)

    @_quietly
    def decodes(self, mode: str, input_ids: Any, config: Any) -> None:
        """The decoding begins, with `input_ids` for a prompt and `config` in effect."""
        self._prompt, self._config, self._decoded = input_ids.shape[1], config, True
        facts = self._request.facts
        sampled = bool(getattr(config, "do_sample", False))
        facts[names.REQUEST_MODE] = mode or ("sample" if sampled else "greedy")
        facts[names.REQUEST_SEQUENCES] = input_ids.shape[0]
        longest = getattr(config, "max_length", None)
        if isinstance(longest, int):
            facts[names.GEN_AI_REQUEST_MAX_TOKENS] = longest - self._prompt
        if sampled:
            chosen = (("temperature", names.GEN_AI_REQUEST_TEMPERATURE), ("top_p", names.GEN_AI_REQUEST_TOP_P))
            facts.update((key, value) for name, key in chosen if (value := getattr(config, name, None)) is not None)

    def asked(self, more: bool) -> None:
        """The loop asks whether to go on, and hears `more`; the first time no token is there yet."""
        if self._rounds:
            self._request.token()
            if not more and self.streamed and self.sequences is not None:
                self._finish(self.sequences)
        self._rounds += 1

    @_quietly
    def returned(self, result: Any) -> None:
        """``generate()`` returned `result`."""
        self._finish(getattr(result, "sequences", result))

    @_quietly
    def failed(self, error: BaseException) -> None:
        """``generate()`` raised `error`."""
        self._request.failed(error)

    @_quietly
    def _finish(self, sequences: Any) -> None:
        request, facts = self._request, self._request.facts
        inputs, tokens = _prompt_of(*self._inputs)
        facts[names.REQUEST_INPUTS] = inputs
        facts[names.GEN_AI_INPUT_TOKENS] = tokens
        if not self._decoded:  # a decoding method of the model's own: its steps are all that is known
            request.finished("stop")
            return
        lengths, ended = _lengths(sequences, self._prompt, self._config)
        reasons = ["stop" if stopped else "length" for stopped in ended]
        facts[names.GEN_AI_RESPONSE_FINISH] = reasons[:REASONS_LISTED]
        longest = max(lengths, default=0)
        if longest > 1 and request.decoding_s > 0:
            facts[names.TIME_PER_OUTPUT_TOKEN] = request.decoding_s / (longest - 1)
        request.finished(reasons[0] if reasons else "stop", sum(lengths))


def _lengths(sequences: Any, prompt: int, config: Any) -> tuple[list[int], list[bool]]:
    """Tokens made for each sequence, the one that ends it included, and whether something ended it before the
    longest length allowed."""
    import torch

    shape = getattr(sequences, "shape", None)
    if shape is None or len(shape) != 2:
        return [], []
    made = sequences[:, prompt:]
    rows, width = made.shape
    longest = getattr(config, "max_length", None)
    short = isinstance(longest, int) and prompt + width < longest
    ends = getattr(config, "_eos_token_tensor", None)
    if ends is None or not width:
        return [width] * rows, [short] * rows
    with torch.no_grad():
        hits = torch.isin(made, ends.to(made.device))
        both = torch.stack((hits.any(dim=1).int(), hits.int().argmax(dim=1) + 1)).tolist()
    lengths = [at if hit else width for hit, at in zip(*both, strict=True)]
    return lengths, [bool(hit) or short for hit in both[0]]


def _prompt_of(given: Any, mask: Any) -> tuple[int, int]:
    """Prompts, and tokens of all of them without the padding."""
    shape = getattr(given, "shape", None)
    if shape is None or len(shape) < 2:
        return 1, 1  # none given: the model begins with its start token
    if mask is not None and getattr(mask, "shape", None) == tuple(shape[:2]):
        return shape[0], int(mask.sum())
    return shape[0], shape[0] * shape[1]
