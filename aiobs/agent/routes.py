"""Routes as the agent needs them: told apart, kept in the journal."""

from __future__ import annotations

import json
from dataclasses import fields
from hashlib import blake2b
from typing import Any

from aiobs.guard import say_once
from aiobs.telemetry import Route

METRICS_EVERY_S = 10.0


def route_key(route: Route) -> str:
    """Names the pipeline of a route: the same run to the same places, whoever of it writes."""
    parts = [route.run_id, list(route.exporters), route.run_dir, sorted(route.environment.items())]
    return blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def route_state(route: Route) -> dict[str, Any]:
    """A route as the journal has it."""
    return {**route.__dict__, "environment": dict(route.environment)}


def restored_route(state: Any) -> Route:
    """The route that :func:`route_state` gave. An older or newer version may have had other fields."""
    known = {field.name for field in fields(Route)}
    chosen: dict[str, Any] = {name: value for name, value in state.items() if name in known}
    chosen["exporters"] = tuple(state["exporters"])
    return Route(**chosen)


def metrics_interval_s(route: Route) -> float:
    """Seconds between two exports of metrics: ``OTEL_METRIC_EXPORT_INTERVAL`` (ms), else 10."""
    text = route.environment.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    if not text:
        return METRICS_EVERY_S
    if not text.isdigit() or not int(text):
        say_once(f"metrics:{text}", "aiobs: OTEL_METRIC_EXPORT_INTERVAL=%r: use milliseconds; %g s it is", text, METRICS_EVERY_S)  # fmt: skip
        return METRICS_EVERY_S
    return int(text) / 1000
