"""W3C Trace Context, held against the specification and against OpenTelemetry's own propagator."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aiobs.propagation import STATE_LIMIT, Context, child_environment, extract, from_environment, inject

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
THEIRS = TraceContextTextMapPropagator()


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        "٠٠-" + TRACE + "-" + SPAN + "-01",
    ],
)
def test_what_is_no_traceparent_counts_as_none(header):
    assert extract({"traceparent": header}) is None


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f" 00-{TRACE}-{SPAN}-02\t", False),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_present_and_future_versions(header, sampled):
    expected = Context(bytes.fromhex(TRACE), bytes.fromhex(SPAN), sampled, remote=True)
    assert extract({"TraceParent": header}) == expected


def test_tracestate_is_bounded_and_checked():
    parent = f"00-{TRACE}-{SPAN}-01"

    def state(header):
        return extract({"traceparent": parent, "TRACESTATE": header}).trace_state

    assert state("a=1, b=2 ,,c@d=x y") == "a=1,b=2,c@d=x y"
    assert state("a=1,a=2") == state("A=1") == state("a") == state("a=1,b=\x07") == ""
    many = ",".join(f"k{n}=v" for n in range(50))
    assert state(many).split(",") == [f"k{n}=v" for n in range(32)]
    long = ",".join(f"k{n}={'v' * 100}" for n in range(20))
    assert 400 < len(state(long)) <= STATE_LIMIT


@given(
    st.binary(min_size=16, max_size=16).filter(any),
    st.binary(min_size=8, max_size=8).filter(any),
    st.booleans(),
    st.sampled_from(["", "a=1", "vendor=x,other@sys=y z"]),
)
def test_opentelemetry_reads_what_we_write_and_we_what_it_writes(trace_id, span_id, sampled, state):
    carrier: dict[str, str] = {}
    inject(Context(trace_id, span_id, sampled, trace_state=state), carrier)
    theirs = THEIRS.extract(carrier)
    read = trace.get_current_span(theirs).get_span_context()
    assert (read.trace_id, read.span_id) == (int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"))
    assert bool(read.trace_flags & 1) == sampled
    assert read.trace_state.to_header() == state
    back: dict[str, str] = {}
    THEIRS.inject(back, theirs)
    assert extract(back) == Context(trace_id, span_id, sampled, remote=True, trace_state=state)


@given(st.text(max_size=80), st.text(max_size=600))
def test_nonsense_never_raises(parent, state):
    extract({"traceparent": parent})
    extract({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": state})


def test_a_subprocess_continues_the_context():
    here = Context(bytes.fromhex(TRACE), bytes.fromhex(SPAN), trace_state="a=1")
    script = "from aiobs.propagation import from_environment; print(from_environment())"
    environment = child_environment(here)
    seen = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == repr(Context(here.trace_id, here.span_id, remote=True, trace_state="a=1"))


def test_a_child_without_context_joins_nothing():
    left_over = {"TRACEPARENT": f"00-{TRACE}-{SPAN}-01", "TRACESTATE": "a=1", "PATH": "/bin"}
    assert from_environment(left_over) is not None
    assert child_environment(None, left_over) == {"PATH": "/bin"}
    assert left_over["TRACESTATE"] == "a=1", "the caller's environment is its own"
