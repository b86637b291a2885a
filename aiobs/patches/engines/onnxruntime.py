"""The ONNX Runtime patch: each run of a session, with its model, provider and input shapes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import PurePath
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiobs import names
from aiobs.guard import swallow
from aiobs.patches.engines.model_calls import in_training_step, recorded
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.patches.engines.shapes import Shapes
from aiobs.recorder import start_span
from aiobs.wrapping import Live

PLACE: Final = "patches.onnxruntime"


class OnnxRuntimePatch(EnginePatch):
    """Sessions of ``onnxruntime``, also those that other libraries (Optimum, fastembed) make."""

    def __init__(self) -> None:
        super().__init__()
        self._sessions: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
        self._shapes = Shapes()

    def place(self) -> None:
        session = import_module("onnxruntime").InferenceSession
        home = next(kind for kind in session.__mro__ if "run" in vars(kind))
        self.put(home, "run", recorded(names.SPAN_ONNX_RUN, PLACE, self.remove, self._fed))
        self.put_if_there(home, "run_with_ort_values", recorded(names.SPAN_ONNX_RUN, PLACE, self.remove, self._fed))
        self.put_if_there(home, "run_with_iobinding", recorded(names.SPAN_ONNX_RUN, PLACE, self.remove, self._bound))
        self.put_if_there(home, "run_async", self._run_async)

    def _fed(self, session: Any, args: tuple[Any, ...]) -> Mapping[str, Any]:
        """Attributes of ``run(output_names, input_feed, …)``; by keyword the shapes are left out."""
        known = self._known(session)
        feed = args[1] if len(args) > 1 else None
        return {**known, names.MODEL_INPUTS: self._shapes.text(feed.items())} if isinstance(feed, dict) else known

    def _bound(self, session: Any, _args: tuple[Any, ...]) -> Mapping[str, Any]:
        return self._known(session)

    def _known(self, session: Any) -> dict[str, Any]:
        known = self._sessions.get(session)
        if known is None:
            path = getattr(session, "_model_path", None)
            name = PurePath(path).stem if path else session.get_modelmeta().graph_name
            providers = session.get_providers()
            known = {names.MODEL_NAME: str(name)[:128], names.MODEL_PROVIDER: providers[0] if providers else ""}
            self._sessions[session] = known
        return known

    def _run_async(self, original: Any, live: Live) -> Any:
        """``run_async`` returns at once and calls back from a thread of ONNX Runtime's: the span ends there."""

        def run_async(self_: Any, output_names: Any, input_feed: Any, callback: Any, *args: Any, **kwargs: Any) -> Any:
            begun = None
            if live and is_recorded() and not in_training_step():
                try:
                    attributes = self._fed(self_, (output_names, input_feed))
                    begun = start_span(names.SPAN_ONNX_RUN, attributes)
                except Exception as error:
                    self.remove()
                    swallow(PLACE, error)
            if begun is None:
                return original(self_, output_names, input_feed, callback, *args, **kwargs)
            open_span = begun

            def called_back(results: Any, user_data: Any, error: str) -> Any:
                try:
                    if error:
                        open_span.fail(str(error))
                    open_span.end()
                except Exception as fault:
                    swallow(PLACE, fault)
                return callback(results, user_data, error)

            try:
                return original(self_, output_names, input_feed, called_back, *args, **kwargs)
            except BaseException as error:
                open_span.fail(error)
                open_span.end()
                raise

        return run_async
