"""What ``aiobs run`` leaves in a run folder, read with nothing but json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def recorded(folder: Path, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    """``aiobs run`` of a command of this Python, in `folder`."""
    whole = [sys.executable, "-m", "aiobs.cli", "run", "--quiet", "--", sys.executable, *command]
    return subprocess.Popen(whole, cwd=folder, env={**os.environ, **environment})


def plain(value: dict[str, Any]) -> Any:
    """The Python value of an OTLP value."""
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [plain(item) for item in content.get("values", [])]
    return int(content) if kind == "intValue" else content


def spans_of(folder: Path) -> list[dict[str, Any]]:
    """All spans of the one run below `folder`, with plain attributes and resource."""
    found = []
    for path in (folder / "aiobs-runs").glob("*/traces*.jsonl"):
        for line in path.read_text().splitlines():
            for group in json.loads(line)["resourceSpans"]:
                resource = {pair["key"]: plain(pair["value"]) for pair in group["resource"]["attributes"]}
                for scope in group["scopeSpans"]:
                    for span in scope["spans"]:
                        attributes = {pair["key"]: plain(pair["value"]) for pair in span.get("attributes", [])}
                        found.append({**span, "attributes": attributes, "resource": resource})
    return found
