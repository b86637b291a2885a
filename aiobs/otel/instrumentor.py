"""The patches as ``opentelemetry_instrumentor`` entry points, for ``opentelemetry-instrument`` and for code that
calls ``TorchInstrumentor().instrument()``. Loaded by name, and only there; the runtime knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined,unused-ignore]

from aiobs import patches
from aiobs.settings import load_settings


class PatchInstrumentor(BaseInstrumentor):  # type: ignore[misc,unused-ignore]
    """Starts recording where that has not been done, and switches one patch on and off."""

    patch = ""
    needs: Collection[str] = ()

    def instrumentation_dependencies(self) -> Collection[str]:
        return self.needs

    def _instrument(self, **kwargs: Any) -> None:  # noqa: ARG002
        from aiobs import runtime

        runtime.ensure()
        patches.install_all(load_settings(complain=lambda _error: None), only=self.patch)

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002
        patches.remove(self.patch)


class TorchInstrumentor(PatchInstrumentor):
    """The PyTorch patch."""

    patch = "torch"
    needs = ("torch >= 2.0",)


class LightningInstrumentor(PatchInstrumentor):
    """The Lightning patch, under the distribution's new name."""

    patch = "lightning"
    needs = ("lightning >= 2.0",)
