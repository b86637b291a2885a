"""What ``opentelemetry-instrument`` finds by entry point: distro, configurator and id generator."""

from __future__ import annotations

import os
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined,unused-ignore]
from opentelemetry.sdk._configuration import _BaseConfigurator  # pyright: ignore[reportPrivateUsage]
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator

from aiobs import ids
from aiobs.otel.bridge import providers


class AiobsIdGenerator(IdGenerator):
    """Random ids that leave the global ``random`` stream alone and differ between equally seeded processes."""

    def generate_span_id(self) -> int:
        return ids.random_bits(64) or 1

    def generate_trace_id(self) -> int:
        return ids.random_bits(128) or 1

    def is_trace_id_random(self) -> bool:
        return True


class AiobsDistro(BaseDistro):  # type: ignore[misc,unused-ignore]
    """Has ``opentelemetry-instrument`` configured by :class:`AiobsConfigurator`, whatever else is installed."""

    def _configure(self, **kwargs: Any) -> None:  # noqa: ARG002
        os.environ.setdefault("OTEL_PYTHON_CONFIGURATOR", "aiobs")


class AiobsConfigurator(_BaseConfigurator):
    """Starts aiobs and sets an SDK provider whose spans go into the flight record and from there to the exporters.

    No exporter of the SDK's own is made: the agent sends, and sends each signal only where it is taken.
    """

    def _configure(self, **kwargs: Any) -> None:  # noqa: ARG002
        from aiobs import runtime

        runtime.ensure()
        if providers.processor is None:
            return  # aiobs does not record this process
        provider = TracerProvider(id_generator=AiobsIdGenerator(), shutdown_on_exit=False)
        providers.ours.add(provider)
        trace.set_tracer_provider(provider)
