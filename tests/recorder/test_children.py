"""Child processes continue the trace of the span that starts them."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys

import pytest

import aiobs
from aiobs.testing import capture

SHOW = [sys.executable, "-c", "import os; print(os.environ.get('TRACEPARENT', ''), os.environ.get('KEPT', ''))"]


def shown(**options: object) -> str:
    return subprocess.run(SHOW, capture_output=True, text=True, check=True, **options).stdout.split(" ")[0]  # type: ignore[call-overload,no-any-return]


def test_a_child_gets_the_context_of_the_span_that_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "yes")
    with capture() as captured:
        with aiobs.span("parent"):
            seen = subprocess.check_output(SHOW, text=True).split()
        assert "TRACEPARENT" not in os.environ
    parent = captured.span("parent")
    assert seen == [f"00-{parent.trace_id}-{parent.span_id}-01", "yes"]


def test_children_of_asyncio_get_it_too() -> None:
    async def child() -> str:
        with aiobs.span("parent"):
            process = await asyncio.create_subprocess_exec(*SHOW, stdout=asyncio.subprocess.PIPE)
            out, _ = await process.communicate()
        return out.decode().split()[0]

    with capture() as captured:
        seen = asyncio.run(child())
    assert captured.span("parent").span_id in seen


def test_an_environment_that_the_caller_names_is_left_alone() -> None:
    with capture(), aiobs.span("parent"):
        assert shown(env={"PATH": os.environ["PATH"]}).strip() == ""
        assert "TRACEPARENT" in aiobs.child_environment({"PATH": "x"})


def test_it_can_be_switched_off_and_is_gone_afterwards() -> None:
    before = subprocess.Popen.__init__
    with capture(patches_off=["subprocess"]), aiobs.span("parent"):
        assert subprocess.Popen.__init__ is before
        assert shown().strip() == ""
    with capture():
        assert subprocess.Popen.__init__ is not before
        assert inspect.signature(subprocess.Popen.__init__) == inspect.signature(before)
    assert subprocess.Popen.__init__ is before
