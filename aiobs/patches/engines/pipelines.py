"""Pipelines of Transformers: a span around each call that returns results, of any task."""

from __future__ import annotations

import sys
from importlib import import_module
from types import GeneratorType
from typing import Any, Final

from aiobs import names
from aiobs.guard import swallow
from aiobs.patches.engines.generation import short_name
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.recorder import NOTHING, Span, start_span
from aiobs.wrapping import Live

PLACE: Final = "patches.transformers.pipelines"


class PipelinesPatch(EnginePatch):
    """``Pipeline.__call__``. What is handed a dataset or generator returns at once and works while it is read:
    such calls have no span, but the generations in them have."""

    def place(self) -> None:
        self.put(import_module("transformers.pipelines.base").Pipeline, "__call__", self._call)

    def _call(self, original: Any, live: Live) -> Any:
        def __call__(self_: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not live or not is_recorded() or _lazy(inputs):
                return original(self_, inputs, *args, **kwargs)
            with self._begin(self_, inputs):
                return original(self_, inputs, *args, **kwargs)

        return __call__

    def _begin(self, pipeline: Any, inputs: Any) -> Span:
        try:
            task = str(getattr(pipeline, "task", None) or type(pipeline).__name__)
            model = getattr(pipeline, "model", None)
            attributes = {
                names.PIPELINE_TASK: task,
                names.MODEL_NAME: short_name(getattr(model, "name_or_path", ""), type(model).__name__),
                names.REQUEST_INPUTS: len(inputs) if isinstance(inputs, list) else 1,
            }
            return start_span(f"{names.SPAN_PIPELINE} {task}", attributes)
        except Exception as error:
            self.remove()
            swallow(PLACE, error)
            return NOTHING


def _lazy(inputs: Any) -> bool:
    """Whether a pipeline hands out an iterator for `inputs` and begins to work when it is read."""
    dataset = getattr(sys.modules.get("torch.utils.data"), "Dataset", GeneratorType)
    return isinstance(inputs, (GeneratorType, dataset))
