"""What becomes of one request in an engine: phases, ends, whose span it is, and what it costs to say so."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import aiobs
from aiobs import names
from aiobs.errors import SettingError
from aiobs.propagation import Context
from aiobs.serving import EngineRequest, EngineSteps, ServerRequest
from aiobs.serving.engine_steps import split
from aiobs.telemetry import STATUS_ERROR
from aiobs.testing import capture

from .llm_example import Runner, Steady

MS = 1_000_000


def server_request(name: str = "POST /v1/chat") -> ServerRequest:
    return ServerRequest.begin(name, {}, lambda _header: None, "127.0.0.1")


def test_the_servers_request_gets_the_facts_and_the_phases() -> None:
    with capture() as captured:
        request = server_request()
        it = EngineRequest("tiny", parameters={"max_tokens": 9, "stop": "secret", "logit_bias": {}}, prompt_tokens=7)
        request.leave()
        at = request.start_ns + 5 * MS

        def engine() -> None:
            it.scheduled(at)
            it.token(1, at + 20 * MS)
            it.token(2, at + 40 * MS)
            it.finished("length", now_ns=at + 41 * MS)

        thread = threading.Thread(target=engine)
        thread.start()
        thread.join()
        request.end()
    span = captured.span("POST /v1/chat")
    said = span.attributes
    assert said[names.GEN_AI_REQUEST_MODEL] == "tiny"
    assert said[names.GEN_AI_REQUEST_MAX_TOKENS] == 9
    assert said[names.GEN_AI_RESPONSE_FINISH] == ["length"]
    assert (said[names.GEN_AI_INPUT_TOKENS], said[names.GEN_AI_OUTPUT_TOKENS]) == (7, 3)
    assert said[names.USAGE_SOURCE] == "engine"
    assert said[names.TIME_TO_FIRST_TOKEN] == pytest.approx(0.025)
    assert said[names.TIME_PER_OUTPUT_TOKEN] == pytest.approx(0.010)
    assert said[names.REQUEST_PREFILL] == pytest.approx(0.020)
    assert said[names.REQUEST_DECODE] == pytest.approx(0.021)
    assert "secret" not in str(captured.spans)
    assert [child.name for child in captured.children(span)] == ["queue", "prefill", "decode"]
    assert [round(child.duration_s * 1e3) for child in captured.children(span)][1:] == [20, 21]


def test_without_a_server_it_is_a_span_of_its_own_in_what_surrounds_it() -> None:
    with capture() as captured:
        with aiobs.span("batch job"):
            EngineRequest("tiny", "text_completion", {"temperature": 0.5}).finished()
        far = Context(bytes(range(16)), bytes(range(8)), remote=True)
        EngineRequest("tiny", parent=far).finished()
    (ours,) = captured.children(captured.span("batch job"))
    assert (ours.name, ours.kind) == ("text_completion tiny", 1)
    assert ours.attributes[names.GEN_AI_REQUEST_TEMPERATURE] == 0.5
    assert [child.name for child in captured.children(ours)] == ["queue"]
    assert captured.span("chat tiny").parent_id == far.span_id.hex()


def test_the_second_prompt_of_a_request_has_a_span_of_its_own() -> None:
    with capture() as captured:
        request = server_request()
        first, second = EngineRequest("tiny", prompt_tokens=3), EngineRequest("tiny", prompt_tokens=4)
        for it in (first, second):
            it.scheduled()
            it.token()
            it.finished()
        request.end()
    span = captured.span("POST /v1/chat")
    assert span.attributes[names.GEN_AI_INPUT_TOKENS] == 3
    assert [child.name for child in captured.children(span)].count("chat tiny") == 1
    assert captured.span("chat tiny").attributes[names.GEN_AI_INPUT_TOKENS] == 4


def test_swapped_out_and_in_again_it_needs_no_second_prefill() -> None:
    with capture() as captured:
        it = EngineRequest("tiny")
        it.scheduled()
        it.prefilled()
        it.token()
        it.preempted()
        it.resumed(recompute=False)
        it.token()
        it.finished()
    span = captured.span("chat tiny")
    assert [child.name for child in captured.children(span)] == ["queue", "prefill", "decode", "queue", "decode"]
    assert span.attributes[names.REQUEST_PREEMPTIONS] == 1


def test_cancelled_in_the_queue_and_while_decoding() -> None:
    with capture(patches_off=("all",)) as captured, Runner(Steady(0.005), max_batch=1) as runner:
        running = runner.submit(8, 500)
        queued = runner.submit(8, 5)
        runner.wait_token(running)
        runner.engine.cancel(queued)
        runner.engine.cancel(running)
        last = runner.submit(8, 2)
        runner.wait_ended(1)
        assert runner.ended == {last.number: "length"}
    by_id = {span.span_id: span for span in captured.spans}
    for it, phases in ((running, ["queue", "prefill", "decode"]), (queued, ["queue"])):
        span = by_id[it.seen.span_id]
        assert [child.name for child in captured.children(span)] == phases
        assert span.attributes[names.REQUEST_ABORTED] == "disconnected"
        assert names.TIME_PER_OUTPUT_TOKEN not in span.attributes
        assert {each.status for each in (span, *captured.children(span))} == {0}


def test_a_failing_step_fails_those_in_it_and_nobody_else() -> None:
    rules = {"keep_first": 0, "keep_every": 0}
    with capture(patches_off=("all",)) as captured:
        with Runner(Steady(0.005, fails=[5]), max_batch=2, **rules) as runner:
            those = [runner.submit(8, 30) for _ in range(3)]
            runner.wait_ended(3)
        assert [runner.ended[it.number] for it in those] == ["error", "error", "length"]
    by_id = {span.span_id: span for span in captured.spans}
    for it in those[:2]:
        span = by_id[it.seen.span_id]
        assert (span.status, span.attributes["error.type"]) == (STATUS_ERROR, "MemoryError")
        assert captured.children(span)[-1].status == STATUS_ERROR
    assert by_id[those[2].seen.span_id].status == 0
    step = captured.span("engine step")
    assert (step.status, step.attributes[names.ENGINE_STEP_REASON]) == (STATUS_ERROR, "failed")
    assert set(step.attributes[names.ENGINE_STEP_REQUESTS]) == {it.seen.span_id for it in those[:2]}


def test_after_the_end_nothing_changes() -> None:
    with capture() as captured:
        it = EngineRequest("tiny")
        it.scheduled()
        it.finished("stop")
        it.failed(RuntimeError("too late"))
        it.preempted()
        it.token()
        it.scheduled()
    span = captured.span("chat tiny")
    assert span.status == 0
    assert span.attributes[names.GEN_AI_RESPONSE_FINISH] == ["stop"]
    assert len(captured.children(span)) == 2


def test_calls_out_of_order_and_clocks_that_go_back_do_no_harm() -> None:
    with capture() as captured:
        it = EngineRequest("tiny")
        it.token(now_ns=5)
        it.resumed()
        it.preempted(now_ns=1)
        it.finished(now_ns=2)
    span = captured.span("chat tiny")
    assert all(child.end_ns >= child.start_ns for child in captured.children(span))
    assert [child.name for child in captured.children(span)] == ["queue", "decode", "queue"]


def test_where_nothing_is_recorded_nothing_happens() -> None:
    steps = EngineSteps("quiet")
    it = EngineRequest("tiny")
    with steps.step() as step:
        step.share(it, prefill_tokens=1)
        it.scheduled()
        it.token()
    it.finished()
    assert it.span_id == ""


class TestSteps:
    """Which steps are kept, and how their time is divided."""

    def kept(self, durations_ms: list[int], **rules: Any) -> dict[int, str]:
        with capture() as captured:
            steps = EngineSteps("engine", **rules)
            at = time.monotonic_ns()
            for each in durations_ms:
                steps.step(now_ns=at).end(at + each * MS)
        return {
            span.attributes[names.ENGINE_STEP]: span.attributes[names.ENGINE_STEP_REASON]
            for span in captured.named("engine step")
        }

    def test_the_first_every_nth_and_the_slow_are_kept(self) -> None:
        durations = [10] * 40
        durations[25] = durations[26] = durations[37] = 30
        found = self.kept(durations, keep_first=2, keep_every=15, slow_ratio=2)
        assert found == {0: "first", 1: "first", 15: "every", 25: "slow", 30: "every", 37: "slow"}

    def test_a_long_prefill_is_not_slow_among_decodes(self) -> None:
        with capture() as captured:
            steps, it = EngineSteps("engine", keep_first=0, keep_every=0), EngineRequest("tiny")
            at = time.monotonic_ns()
            for index in range(60):
                prefills = index % 5 == 0
                step = steps.step(now_ns=at)
                step.share(it, prefill_tokens=100 * prefills, decode_tokens=not prefills)
                step.end(at + (50 if prefills else 5) * MS)
        assert not captured.named("engine step")

    def test_time_is_shared_by_cost(self) -> None:
        with capture() as captured:
            steps = EngineSteps("engine", decode_cost=4)
            long, short = EngineRequest("tiny"), EngineRequest("tiny")
            at = time.monotonic_ns()
            step = steps.step(running=2, waiting=1, kv_usage=0.5, now_ns=at)
            step.share(long, prefill_tokens=8)
            step.share(short, decode_tokens=1)
            step.share(long, prefill_tokens=4)
            step.end(at + 16 * MS)
            step.end(at + 99 * MS)
        said = captured.span("engine step").attributes
        assert said[names.ENGINE_STEP_SHARES] == [0.012, 0.004]
        assert (said[names.ENGINE_PREFILL_TOKENS], said[names.ENGINE_DECODE_TOKENS]) == (12, 1)
        assert (said[names.ENGINE_RUNNING], said[names.ENGINE_WAITING], said[names.ENGINE_KV_USAGE]) == (2, 1, 0.5)

    def test_shares_add_up_to_the_nanosecond(self) -> None:
        for count in (1, 2, 3, 7, 64, 1000):
            for duration in (0, 1, 999, 123_456_789, 10**12 + 1):
                costs = [0.1 * (i % 5) for i in range(count)]
                assert sum(split(duration, costs)) == duration
                assert min(split(duration, costs)) >= 0
        assert split(100, []) == []
        assert split(90, [0, 0, 0]) == [30, 30, 30]

    @pytest.mark.parametrize("rule", [{"keep_first": -1}, {"slow_ratio": 0.5}, {"decode_cost": float("nan")}])
    def test_rules_out_of_range_are_refused(self, rule: dict[str, Any]) -> None:
        with pytest.raises(SettingError, match=next(iter(rule))):
            EngineSteps("engine", **rule)


def test_a_token_costs_next_to_nothing_and_memory_does_not_grow() -> None:
    with capture():
        it = EngineRequest("tiny")
        best = min(_seconds_of(it) for _ in range(5))
        assert len(it._gaps) < 300
    assert best / 10_000 < 2e-6  # 0.3 µs on a quiet machine


def _seconds_of(it: EngineRequest) -> float:
    began = time.perf_counter()
    for _ in range(10_000):
        it.token()
    return time.perf_counter() - began
