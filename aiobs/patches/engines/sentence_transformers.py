"""The sentence-transformers patch: each call of ``encode`` is an embeddings span, each reranking a ``rerank`` one."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from aiobs import names
from aiobs.guard import swallow
from aiobs.patches.engines.model_calls import in_training_step
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.recorder import NOTHING, Span, start_span
from aiobs.serving import current_request
from aiobs.wrapping import Live, MakeWrapper

PLACE: Final = "patches.sentence_transformers"
PROVIDER: Final = "sentence_transformers"
CLASSES: Final = (
    ("SentenceTransformer", "encode", "embeddings"),
    ("SparseEncoder", "encode", "embeddings"),
    ("MultiVectorEncoder", "encode", "embeddings"),
    ("CrossEncoder", "predict", "rerank"),
)
"""Class, method and operation; ``encode_query``, ``rank`` and the like call these."""


class SentenceTransformersPatch(EnginePatch):
    """Models of ``sentence_transformers``, whatever backend (PyTorch, ONNX, OpenVINO) runs them."""

    def place(self) -> None:
        library = import_module("sentence_transformers")
        for name, method, operation in CLASSES:
            kind = getattr(library, name, None)
            if kind is not None:
                self.put(kind, method, self._call(operation))

    def _call(self, operation: str) -> MakeWrapper:
        def make(original: Any, live: Live) -> Any:
            def call(self_: Any, *args: Any, **kwargs: Any) -> Any:
                if not live or not is_recorded() or in_training_step():
                    return original(self_, *args, **kwargs)
                span = self._begin(self_, operation, args, kwargs)
                with span:
                    result = original(self_, *args, **kwargs)
                    self._learn(span, result)
                return result

            return call

        return make

    def _begin(self, model: Any, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Span:
        try:
            name = model_name(model)
            attributes: dict[str, Any] = {
                names.GEN_AI_OPERATION: operation,
                names.GEN_AI_PROVIDER: PROVIDER,
                names.GEN_AI_REQUEST_MODEL: name,
                names.REQUEST_INPUTS: _count(args[0] if args else next(iter(kwargs.values()), None)),
            }
            request = current_request()
            if request is not None:
                request.engine.update(attributes)
            return start_span(f"{operation} {name}", attributes)
        except Exception as error:
            self.remove()
            swallow(PLACE, error)
            return NOTHING

    def _learn(self, span: Span, result: Any) -> None:
        try:
            shape = getattr(result, "shape", None)
            if shape is not None and len(shape) and span.attributes[names.GEN_AI_OPERATION] == "embeddings":
                span.set(names.EMBEDDINGS_DIMENSION, int(shape[-1]))
        except Exception as error:
            swallow(PLACE, error)


def model_name(model: Any) -> str:
    """What the model was loaded from, else its class; without the folders of a local path."""
    card = getattr(model, "model_card_data", None)
    name = getattr(card, "base_model", None) or getattr(getattr(model, "config", None), "_name_or_path", None)
    return (
        str(name).rstrip("/").rpartition("/")[2][:128]
        if name and str(name).startswith(("/", "."))
        else str(name or type(model).__name__)[:128]
    )


def _count(inputs: Any) -> int:
    """How many texts (or pairs) `inputs` is."""
    if isinstance(inputs, (str, dict)) or inputs is None:
        return 1
    try:
        return len(inputs)
    except TypeError:
        return 1
