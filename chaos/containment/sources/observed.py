"""Spans of an OTLP JSON body, flat: what a watch looks at while they arrive."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiobs import names

_KINDS = {"1": "internal", "2": "server", "3": "client", "4": "producer", "5": "consumer"}
_ERROR = ("2", "STATUS_CODE_ERROR")


@dataclass(frozen=True)
class Observed:
    """A finished span; the names are those of SLOs and boundaries.

    Attributes:
        key: trace and span id; the same span sent twice has the same.
        attributes: as text; those of the resource win over those of the span, as in a verdict.
    """

    key: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    error: bool
    attributes: Mapping[str, str]

    def text(self, attribute: str) -> str | None:
        """The attribute, or what ``span.name``, ``span.kind`` and ``error`` stand for; None where it has none."""
        if attribute == "span.name":
            return self.name
        if attribute == "span.kind":
            return self.kind
        if attribute == "error":
            return "true" if self.error else "false"
        return self.attributes.get(attribute)

    def number(self, value: str) -> float | None:
        """Its ``duration`` in seconds, or an attribute that is a number."""
        if value == "duration":
            return (self.end_ns - self.start_ns) / 1e9
        try:
            return float(self.attributes[value])
        except (KeyError, ValueError):
            return None


def observed(body: Mapping[str, Any]) -> Iterator[Observed]:
    """The spans of a body that :func:`~aiobs.chaos.containment.sources.bodies.kept` has let through, or of a line of
    a run folder. Raises ValueError, TypeError, AttributeError or KeyError for what is neither."""
    for group in body.get("resourceSpans") or ():
        resource = _texts((group.get("resource") or {}).get("attributes"))
        for scope in group.get("scopeSpans") or ():
            for span in scope.get("spans") or ():
                attributes = {**_texts(span.get("attributes")), **resource}
                kind = str(span.get("kind") or "1")
                status = str((span.get("status") or {}).get("code"))
                yield Observed(
                    f"{span.get('traceId')}{span.get('spanId')}", str(span.get("name", "")),
                    _KINDS.get(kind) or kind.removeprefix("SPAN_KIND_").lower(),
                    int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"]),
                    status in _ERROR or attributes.get(names.TRUNCATED) == "true", attributes,
                )  # fmt: skip


def _texts(pairs: Any) -> dict[str, str]:
    found = {}
    for pair in pairs or ():
        for value in (pair.get("value") or {}).values():
            if isinstance(value, (str, int, float)):
                found[pair["key"]] = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return found


def matcher(where: Mapping[str, Sequence[str]], any_of: bool = False) -> Callable[[Observed], bool]:
    """Whether a span matches `where`, with the wildcards that a verdict knows."""
    tests = [
        (attribute, re.compile("|".join(fnmatch.translate(value) for value in values)))
        for attribute, values in where.items()
    ]
    join = any if any_of else all

    def match(span: Observed) -> bool:
        return join((text := span.text(attribute)) is not None and bool(test.match(text)) for attribute, test in tests)

    return match
