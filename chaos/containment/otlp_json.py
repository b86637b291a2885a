"""One line of OTLP JSON: an export request, decoded into nothing but the fields that are looked at."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from aiobs import names
from aiobs.chaos.containment.marks import marks_of

_KINDS = {None: "internal", 0: "internal", 1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
FAILED = {2, "2", "STATUS_CODE_ERROR"}
FAULT = f"{names.SPAN_FAULT} "
"""What the names of fault spans begin with."""


@cache
def decoder() -> Any:
    """Built here, because msgspec is imported only once it is needed."""
    import msgspec

    def struct(title: str, /, **fields: Any) -> Any:
        return msgspec.defstruct(title, [(field, kind | None, None) for field, kind in fields.items()], gc=False)

    def many(kind: Any) -> Any:
        return list.__class_getitem__(kind)

    whole: Any = str | int
    value = struct("Value", stringValue=str, intValue=whole | float, doubleValue=whole | float, boolValue=bool)
    pairs = many(struct("Pair", key=str, value=value))
    span = struct(
        "Span", traceId=str, spanId=str, name=str, kind=whole, startTimeUnixNano=whole, endTimeUnixNano=whole, attributes=pairs,
        status=struct("Status", code=whole),
    )  # fmt: skip
    scope = struct("Scope", spans=many(span))
    group = struct("Group", resource=struct("Resource", attributes=pairs), scopeSpans=many(scope))
    return msgspec.json.Decoder(struct("Line", resourceSpans=many(group)))


def text_of(value: Any) -> str | None:
    """An attribute's value as a text; None where it is none, or a list."""
    if value.stringValue is not None:
        found: str = value.stringValue
        return found
    if value.intValue is not None:
        return str(value.intValue)
    if value.doubleValue is not None:
        return str(value.doubleValue).removesuffix(".0")
    return None if value.boolValue is None else "true" if value.boolValue else "false"


def kind_of(kind: Any) -> str:
    """A span's kind in lower case, however it is written."""
    found = _KINDS.get(kind)
    if found is None:
        text = str(kind).removeprefix("SPAN_KIND_").lower()
        found = _KINDS[kind] = _KINDS.get(int(text), "internal") if text.isdigit() else text
        if found == "unspecified":
            found = _KINDS[kind] = "internal"
    return found


def fault_spans(line: bytes) -> list[dict[str, Any]]:
    """The fault spans in a line, with all that they tell."""
    return [
        span
        for group in json.loads(line).get("resourceSpans") or ()
        for scope in group.get("scopeSpans") or ()
        for span in scope.get("spans") or ()
        if str(span.get("name")).startswith(FAULT) and not str(span.get("name")).endswith(names.STARTED_SUFFIX)
    ]


def value_of(line: bytes, attribute: str, mark: int) -> str | None:
    """The value of `attribute` in `line` that has this mark; None where there is none."""
    import msgspec

    try:
        groups = decoder().decode(line).resourceSpans or ()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    lists = [group.resource.attributes for group in groups if group.resource]
    lists += [span.attributes for group in groups for scope in group.scopeSpans or () for span in scope.spans or ()]
    pairs = [pair for pairs in lists for pair in pairs or () if pair.key == attribute and pair.value is not None]
    texts = sorted({text for pair in pairs if (text := text_of(pair.value)) is not None})
    return next((it for it in texts if int(marks_of([it])[0]) == mark), None)
