"""Where telemetry goes: OTLP, run folders, Prometheus, Perfetto and the console.

Each module that is an exporter has a ``create(route)``, which the entry point group ``aiobs_exporter`` names.
"""

from __future__ import annotations

if __name__ != "aiobs.exporters":
    raise ImportError(f"import this package as aiobs.exporters, not as {__name__!r}")
