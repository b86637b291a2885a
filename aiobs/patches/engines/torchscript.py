"""Compiled PyTorch models that no training loop calls: TorchScript modules and packages of AOTInductor."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiobs import names
from aiobs.imports import when_imported
from aiobs.patches.engines.model_calls import recorded
from aiobs.patches.engines.placing import EnginePatch
from aiobs.patches.engines.shapes import Shapes

PLACE: Final = "patches.torchscript"
PACKAGES: Final = ("torch.export.pt2_archive._package", "torch._inductor.package.package")
"""Homes of what ``torch._inductor.aoti_load_package`` returns, in newer and older versions."""


class TorchScriptPatch(EnginePatch):
    """Calls of loaded or scripted modules, outside a training step and from Python: the parts of a module call
    each other inside the compiled code, unseen and at no cost."""

    def __init__(self) -> None:
        super().__init__()
        self._shapes = Shapes()
        self._names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

    def place(self) -> None:
        from torch.compiler import is_compiling
        from torch.jit import ScriptModule

        script = recorded(names.SPAN_SCRIPT_CALL, PLACE, self.remove, self._scripted, is_compiling)
        self.put(ScriptModule, "__call__", script)
        for home in PACKAGES:
            self.undo.append(when_imported(home, self._packages))

    def _packages(self, module: ModuleType) -> None:
        kind = getattr(module, "AOTICompiledModel", None)
        if kind is not None and kind.__module__ == module.__name__:
            self.put(kind, "__call__", recorded(names.SPAN_AOT_CALL, PLACE, self.remove, self._packaged))

    def _scripted(self, module: Any, args: tuple[Any, ...]) -> Mapping[str, Any]:
        name = self._names.get(module)
        if name is None:
            name = self._names[module] = str(module.original_name)
        return {names.MODEL_NAME: name, names.MODEL_INPUTS: self._shapes.of_tensors(args)}

    def _packaged(self, _model: Any, args: tuple[Any, ...]) -> Mapping[str, Any]:
        return {names.MODEL_INPUTS: self._shapes.of_tensors(args)}
