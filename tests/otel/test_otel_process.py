"""OpenTelemetry's spans over process borders: death, fork, propagation, ids."""

from __future__ import annotations

import pytest

SDK = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""
API = "from opentelemetry import trace\n"


@pytest.mark.parametrize("library", [SDK, API])
def test_killed_with_spans_open(run_script, library):
    ran = run_script(
        "begin()\n"
        + library
        + """
import signal
tracer = trace.get_tracer("lib", "3")
for n in range(50):
    tracer.start_span("finished", attributes={"n": n}).end()
with tracer.start_as_current_span("open", attributes={"stage": "load"}) as span:
    span.add_event("last words")
    with recorder.span("ours"):
        with tracer.start_as_current_span("inner"):
            os.kill(os.getpid(), signal.SIGKILL)
""",
        code=-9,
    )
    assert sorted(span.attributes["n"] for span in ran.spans if span.name == "finished") == list(range(50))
    lost = ran.span("open")
    assert lost.open
    assert lost.attributes == {"stage": "load"}
    assert (lost.scope, lost.version) == ("lib", "3")
    assert ran.span("ours").parent == lost.span
    assert ran.span("inner").open
    assert ran.span("inner").parent == ran.span("ours").span


@pytest.mark.parametrize("library", [SDK, API])
def test_forked_children_record_for_themselves(run_script, library):
    ran = run_script(
        "begin()\n"
        + library
        + """
tracer = trace.get_tracer("lib")
with tracer.start_as_current_span("around") as around:
    pids = []
    for n in range(2):
        pid = os.fork()
        if not pid:
            with tracer.start_as_current_span(f"child {n}"):
                pass
            around.end()
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
"""
    )
    assert sorted(span.name for span in ran.spans) == ["around", "child 0", "child 1"]
    assert not any(span.open for span in ran.spans)
    for n in range(2):
        assert ran.span(f"child {n}").parent == ran.span("around").span
    assert len({span.span for span in ran.spans}) == 3


@pytest.mark.parametrize("library", [SDK, API])
def test_http_request_joins_the_callers_trace(run_script, library):
    """A client in one process, a server in another; both use OpenTelemetry's propagator only."""
    server = (
        "begin()\n"
        + library
        + """
import http.server, threading
from opentelemetry import propagate
tracer = trace.get_tracer("server")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with tracer.start_as_current_span("GET", context=propagate.extract(self.headers), kind=trace.SpanKind.SERVER):
            with recorder.span("ours in the server"):
                pass
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
served = http.server.HTTPServer(("127.0.0.1", 0), Handler)
client = os.fork()
if client:
    served.handle_request()
    assert os.waitpid(client, 0)[1] == 0
else:
    import urllib.request
    with recorder.span("ours in the client"):
        with tracer.start_as_current_span("request", kind=trace.SpanKind.CLIENT):
            headers = {"X-Other": "1"}
            propagate.inject(headers)
            urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{served.server_port}", headers=headers))
    os._exit(0)
"""
    )
    ran = run_script(server)
    request, received = ran.span("request"), ran.span("GET")
    assert received.parent == request.span
    assert received.kind == 2
    assert ran.span("ours in the server").parent == received.span
    if library is API:
        assert received.trace == request.trace == ran.span("ours in the client").trace
    else:  # the program's own traces are what it sends to others; ours know the way
        assert (received.trace, request.span) in request.links


def test_an_unsampled_caller_is_respected(run_script):
    ran = run_script(
        """
        begin()
        from opentelemetry import context, propagate, trace
        tracer = trace.get_tracer("lib")
        held = propagate.extract({"traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-00"})
        with tracer.start_as_current_span("explicit", context=held):
            with tracer.start_as_current_span("below"):
                headers = {}
                propagate.inject(headers)
                assert headers["traceparent"].startswith("00-" + "ab" * 16) and headers["traceparent"].endswith("-00")
        context.attach(held)
        with tracer.start_as_current_span("implicit"):
            with recorder.span("ours"):
                pass
        """
    )
    assert [span.name for span in ran.spans] == ["ours"]


def test_native_tracers_honour_the_sampler_variables(run_script):
    script = """
        begin()
        from opentelemetry import trace
        tracer = trace.get_tracer("lib")
        for _ in range(400):
            with tracer.start_as_current_span("outer"):
                with tracer.start_as_current_span("inner"):
                    pass
        """
    ran = run_script(script, environment={"OTEL_TRACES_SAMPLER": "always_off"})
    assert ran.spans == []
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    ran = run_script(script, environment=ratio)
    outer = [span for span in ran.spans if span.name == "outer"]
    assert 50 < len(outer) < 150
    assert {span.parent for span in ran.spans if span.name == "inner"} == {span.span for span in outer}


def test_ids_differ_between_equal_seeds_and_leave_the_stream_alone(run_script):
    script = """
        import random
        random.seed(3)
        begin()
        from opentelemetry import trace
        from aiobs.otel.distro import AiobsIdGenerator
        generator = AiobsIdGenerator()
        assert generator.is_trace_id_random()
        for _ in range(10):
            trace.get_tracer("lib").start_span("a").end()
        say(drawn=random.random(), made=[generator.generate_trace_id(), generator.generate_span_id()])
        """
    one, two = run_script(script), run_script(script)
    assert one.said[0]["drawn"] == two.said[0]["drawn"] == 0.23796462709189137
    assert one.said[0]["made"][0] != two.said[0]["made"][0]
    assert len({(span.trace, span.span) for ran in (one, two) for span in ran.spans}) == 20


def test_current_span_of_ours_is_told_through_opentelemetry(run_script):
    ran = run_script(
        """
        begin()
        from opentelemetry import propagate, trace
        from opentelemetry.trace import StatusCode
        with recorder.span("ours") as ours:
            span = trace.get_current_span()
            span.set_attribute("user", "u1")
            span.set_attributes({"n": 2})
            span.add_event("told", {"a": 1})
            span.record_exception(ValueError("x"))
            span.set_status(StatusCode.ERROR, "bad")
            span.update_name("not ours to change")
            span.end()
            assert span.is_recording() and ours.recording
            headers = {}
            propagate.inject(headers)
            say(header=headers["traceparent"])
        assert not span.is_recording()
        """
    )
    ours = ran.span("ours")
    assert ours.attributes == {"user": "u1", "n": 2}
    assert [name for name, _ in ours.events] == ["told", "exception"]
    assert (ours.status, ours.message) == (2, "bad")
    assert ran.said[0]["header"] == f"00-{ours.trace}-{ours.span}-01"
