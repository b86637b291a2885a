"""Reads run folders with nothing but json, so that tests do not trust the code they test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def only_run(folder: Path) -> Path:
    """The one run folder below `folder`."""
    (found,) = (folder / "aiobs-runs").iterdir()
    return found


def value(any_value: dict[str, Any]) -> Any:
    """The Python value of an OTLP value."""
    ((kind, content),) = any_value.items()
    if kind == "arrayValue":
        return [value(item) for item in content["values"]]
    return int(content) if kind == "intValue" else content


def spans(folder: Path) -> list[dict[str, Any]]:
    """All spans of a run folder, with plain ``attributes`` and ``resource``."""
    found = []
    for path in folder.glob("traces*.jsonl"):
        for line in path.read_text().splitlines():
            for group in json.loads(line)["resourceSpans"]:
                resource = {pair["key"]: value(pair["value"]) for pair in group["resource"]["attributes"]}
                for scope in group["scopeSpans"]:
                    for span in scope["spans"]:
                        attributes = {pair["key"]: value(pair["value"]) for pair in span.get("attributes", [])}
                        found.append({**span, "attributes": attributes, "resource": resource})
    return found


def named(folder: Path, name: str) -> list[dict[str, Any]]:
    """The spans of that name."""
    return [span for span in spans(folder) if span["name"] == name]
