"""A fault is a span, and what it hit points to it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aiobs import chaos
from aiobs.agent.recover import wait_done
from aiobs.recorder.location import runtime_dir
from aiobs.settings import load_settings

WORK = """
import sys, time
import aiobs
aiobs.init(service_name="worker")
print("ready", flush=True)
n = 0
while not sys.stdin.closed and n < 2000:
    with aiobs.span("request", root=n):
        time.sleep(0.01)
    n += 1
"""


def spans_of(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in folder.rglob("*traces*.jsonl"):
        for line in path.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                names = {it["key"]: next(iter(it["value"].values())) for it in resource["resource"]["attributes"]}
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        told = {it["key"]: next(iter(it["value"].values())) for it in span.get("attributes", ())}
                        found.append({**span, "told": told, "service": names["service.name"]})
    return found


def test_the_fault_is_a_span_and_what_it_hit_links_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOBS_RUN_ID", "one-run")
    hit, spared = (
        subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    try:
        for process in (hit, spared):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        with chaos.inject("process.pause", f"pid:{hit.pid}", boundary="worker", why="to see", seed=7):
            time.sleep(0.4)
        time.sleep(0.5)
    finally:
        for process in (hit, spared):
            process.terminate()
            process.communicate()
    assert wait_done(runtime_dir(load_settings()), "one-run", 30)
    spans = spans_of(tmp_path / "run")
    (fault,) = [span for span in spans if span["name"] == "fault process.pause"]
    assert fault["told"]["aiobs.fault.target"] == f"pid:{hit.pid}"
    assert fault["told"]["aiobs.fault.boundary"] == "worker"
    assert fault["told"]["aiobs.fault.seed"] == "7"
    assert fault["told"]["aiobs.fault.valid"] is True
    moments = {event["name"]: int(event["timeUnixNano"]) for event in fault["events"]}
    assert moments["aiobs.fault.injected"] <= moments["aiobs.fault.effective"] < moments["aiobs.fault.undone"]
    linked = [span for span in spans if any(it["spanId"] == fault["spanId"] for it in span.get("links", ()))]
    requests = [span for span in linked if span["name"] == "request"]
    assert requests
    assert all(span["told"]["aiobs.fault.injected"] is True for span in linked)
    # Exactly the one that stood still was under way while the process was stopped.
    slow = [span for span in requests if int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"]) > 300_000_000]
    assert len(slow) == 1
    home = requests[0]["parentSpanId"]
    others = [span for span in spans if span["name"] == "request" and span not in linked]
    spared_ones = [span for span in others if span["parentSpanId"] != home]
    assert len(spared_ones) > 50
    assert any(_overlaps(span, moments) for span in spared_ones)
    assert not any(_overlaps(span, moments) for span in others if span["parentSpanId"] == home)


def _overlaps(span: dict[str, Any], moments: dict[str, int]) -> bool:
    begin, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
    return end > moments["aiobs.fault.effective"] and begin < moments["aiobs.fault.injected"]
