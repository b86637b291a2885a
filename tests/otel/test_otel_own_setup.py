"""A program with an OpenTelemetry set-up of its own keeps it as it is, and what it exports too."""

from __future__ import annotations

import pytest

PROGRAM = """
import random, re
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

early = trace.get_tracer("early")
random.seed(7)
exporter = InMemorySpanExporter()
provider = TracerProvider(resource=Resource({"service.name": "theirs"}), shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
BETWEEN
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("app", "1")

def maybe(name):
    return recorder.span(name) if WITH_US else __import__("contextlib").nullcontext()

with maybe("ours outermost"):
    if WITH_US:
        steps = recorder.steps()
        steps.enter(recorder.phase_id("forward"))
    headers = {}
    propagate.inject(headers)
    assert headers == {}
    with tracer.start_as_current_span("root") as root:
        with maybe("ours between"):
            assert trace.get_current_span() is root
            with early.start_as_current_span("child", attributes={"a": 1}) as child:
                child.add_event("e")
                token = context.attach(baggage.set_baggage("k", "v"))
                assert trace.get_current_span() is child
                context.detach(token)
    with tracer.start_as_current_span("second root"):
        pass
spans = [
    {
        "name": span.name,
        "ids": [span.context.trace_id, span.context.span_id, span.parent.span_id if span.parent else 0],
        "flags": int(span.context.trace_flags),
        "attributes": dict(span.attributes),
        "events": [event.name for event in span.events],
        "resource": dict(span.resource.attributes),
    }
    for span in exporter.get_finished_spans()
]
say(spans=spans, drawn=random.random())
"""


@pytest.mark.parametrize("when", ["first", "between", "last"])
def test_exports_are_the_same_to_the_last_id(run_script, when):
    """Equal seeds draw equal ids from the SDK's generator, so that nothing of ours can hide."""
    alone = run_script("WITH_US = False\n" + PROGRAM.replace("BETWEEN", ""))
    begins = {
        "first": "begin()\n" + PROGRAM.replace("BETWEEN", ""),
        "between": PROGRAM.replace("BETWEEN", "begin()"),
        "last": PROGRAM.replace("BETWEEN", "").replace(
            'tracer = trace.get_tracer("app", "1")', 'tracer = trace.get_tracer("app", "1")\nbegin()'
        ),
    }
    together = run_script("WITH_US = True\n" + begins[when])
    assert together.said == alone.said
    assert "warning" not in together.stderr.lower()
    assert "Overriding" not in together.stderr

    ours = {span.name: span for span in together.spans}
    assert sorted(ours) == ["child", "ours between", "ours outermost", "root", "second root"]
    assert ours["child"].parent == ours["ours between"].span
    assert ours["ours between"].parent == ours["root"].span
    theirs = {span["name"]: span for span in alone.said[0]["spans"]}
    for name in ("root", "child", "second root"):
        trace_id, span_id, _ = theirs[name]["ids"]
        assert ours[name].span == f"{span_id:016x}"
        assert (f"{trace_id:032x}", f"{span_id:016x}") in ours[name].links, "the way to the program's own trace"
    assert ours["child"].attributes == {"a": 1}


def test_a_span_outside_ours_keeps_its_trace(run_script):
    ran = run_script(
        """
        begin()
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        trace.set_tracer_provider(TracerProvider())
        with trace.get_tracer("app").start_as_current_span("request") as span:
            say(trace=f"{span.get_span_context().trace_id:032x}")
        """
    )
    assert ran.span("request").trace == ran.said[0]["trace"]
    assert ran.span("request").links == []


@pytest.mark.parametrize(
    ("sampler", "kept"), [("ALWAYS_OFF", []), ("ParentBased(ALWAYS_OFF)", []), ("ALWAYS_ON", ["inner", "outer"])]
)
def test_their_sampler_decides(run_script, sampler, kept):
    ran = run_script(
        f"""
        begin()
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
        trace.set_tracer_provider(TracerProvider(sampler={sampler}))
        tracer = trace.get_tracer("app")
        with recorder.span("ours"):
            with tracer.start_as_current_span("outer"):
                with recorder.span("ours inside"):
                    with tracer.start_as_current_span("inner"):
                        pass
        """
    )
    assert sorted(span.name for span in ran.spans if not span.name.startswith("ours")) == kept
    if not kept:  # an unrecorded span cannot be a parent
        assert ran.span("ours inside").parent == ran.span("ours").span


def test_one_record_each_with_two_providers(run_script):
    ran = run_script(
        """
        begin()
        from opentelemetry import trace
        from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, TracerProvider
        shared = SynchronousMultiSpanProcessor()
        one, two = TracerProvider(active_span_processor=shared), TracerProvider(active_span_processor=shared)
        trace.set_tracer_provider(one)
        with one.get_tracer("a").start_as_current_span("a"):
            with two.get_tracer("b").start_as_current_span("b"):
                with trace.get_tracer("c").start_as_current_span("c"):
                    pass
        """
    )
    assert sorted(span.name for span in ran.spans) == ["a", "b", "c"]
    assert ran.span("c").parent == ran.span("b").span


def test_tracers_taken_early_go_over_to_the_programs_provider(run_script):
    ran = run_script(
        """
        from opentelemetry import trace
        before = trace.get_tracer("before us")
        begin()
        after = trace.get_tracer("after us")
        for tracer in (before, after):
            tracer.start_span("native").end()
        assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
        trace.set_tracer_provider(TracerProvider())
        for tracer in (before, after):
            span = tracer.start_span("sdk")
            assert isinstance(span, ReadableSpan)
            span.end()
        """
    )
    assert [span.name for span in ran.spans] == ["native", "native", "sdk", "sdk"]
    assert "Overriding" not in ran.stderr


def test_a_foreign_kind_of_provider_is_left_alone_and_named(run_script):
    ran = run_script(
        """
        begin()
        from opentelemetry import trace
        class Tracers(trace.TracerProvider):
            def get_tracer(self, *args, **kwargs):
                return trace.NoOpTracer()
        mine = Tracers()
        trace.set_tracer_provider(mine)
        assert trace.get_tracer_provider() is mine
        with recorder.span("ours"):
            assert trace.get_current_span() is trace.INVALID_SPAN
        """
    )
    assert ran.stderr.count("Tracers is not the OpenTelemetry SDK's") == 1
    assert [span.name for span in ran.spans] == ["ours"]


def test_remove_restores_everything(run_script):
    run_script(
        """
        from opentelemetry import context, trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        def world():
            return [
                context._RUNTIME_CONTEXT,
                trace.__dict__["_set_tracer_provider"],
                trace.__dict__["set_tracer_provider"],
                trace.__dict__["_PROXY_TRACER_PROVIDER"],
                trace.ProxyTracer.__dict__["_tracer"],
                TracerProvider.__dict__["get_tracer"],
                *provider._active_span_processor._span_processors,
            ]

        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
        trace.set_tracer_provider(provider)
        before = world()
        for _ in range(2):
            begin()
            otel.install(Settings())
            trace.get_tracer("a").start_span("a").end()
            changed = world()
            assert len(changed) == len(before) + 1
            assert sum(a is not b for a, b in zip(before, changed)) == 4
            otel.remove()
            otel.remove()
            assert all(a is b for a, b in zip(before, world(), strict=True))
            assert recorder.state.foreign is None
        """
    )


def test_nothing_happens_where_opentelemetry_is_not_used_or_not_wanted(run_script):
    run_script(
        """
        begin()
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
        otel.remove()
        assert not [finder for finder in sys.meta_path if type(finder).__module__ == "aiobs.imports"]
        otel.install(Settings(patches_off=("opentelemetry",)))
        from opentelemetry import context
        assert type(context._RUNTIME_CONTEXT).__name__ == "ContextVarsRuntimeContext"
        """
    )
