"""Faults on record elsewhere: fault spans in a run folder, or a journal of Chaos Toolkit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiobs import names
from aiobs.chaos.containment.fault_spans import fault_of
from aiobs.chaos.containment.model import Fault
from aiobs.errors import RecordError

_MARK = f'"{names.SPAN_FAULT} '.encode()
_ORDINARY = ("its time is over", "the experiment asked for it", "the experiment ended", "no effect was seen")


def faults_in(path: Path) -> tuple[Fault, ...]:
    """The faults of a run folder, a file of OTLP JSON Lines, or a journal, by time, each once.

    Raises:
        RecordError: it cannot be read, or tells of no fault.
    """
    try:
        paths = sorted(path.glob("traces*.jsonl")) if path.is_dir() else [path]
        found = {it.id: it for each in paths for it in _read(each)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(str(path), f"no faults can be read from it ({type(error).__name__}: {error})") from error
    if not found:
        raise RecordError(str(path), "tells of no fault: name a run folder with fault spans, or a journal with `aiobs`")
    return tuple(sorted(found.values(), key=lambda it: it.injected_ns))


def _read(path: Path) -> Iterator[Fault]:
    with path.open("rb") as file:
        if path.suffix == ".json" and b'"chaoslib-version"' in file.read(1 << 16):
            file.seek(0)
            yield from _journal(json.load(file))
            return
        file.seek(0)
        for line in file:
            if _MARK in line:
                yield from _spans(json.loads(line))


def _spans(body: Mapping[str, Any]) -> Iterator[Fault]:
    for group in body.get("resourceSpans") or ():
        for scope in group.get("scopeSpans") or ():
            for span in scope.get("spans") or ():
                if str(span.get("name")).startswith(f"{names.SPAN_FAULT} "):
                    yield fault_of(span)


def _journal(journal: Mapping[str, Any]) -> Iterator[Fault]:
    for it in (journal.get("aiobs") or {}).get("injections") or ():
        if it["effective_ns"] and it["undone_ns"]:
            because = it["because"]
            yield Fault(
                it["injection"], it["fault"], it["injected_ns"], it["effective_ns"], it["undone_ns"], it["boundary"],
                target=it["target"], valid=True, residue=tuple(it["residue"]), aborted="" if because in _ORDINARY else because,
            )  # fmt: skip
