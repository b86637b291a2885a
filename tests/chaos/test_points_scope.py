"""Points hit test traffic alone, on the record, from threads and event loops, and ranks at a step."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import aiobs
from aiobs import chaos, names, propagation
from aiobs.chaos.command.sign import main as sign_main
from aiobs.chaos.points import files
from aiobs.chaos.points.answer import make_answer, read_answer
from aiobs.chaos.points.scope import read_key, sign, verify
from aiobs.clock import monotonic_ns
from aiobs.errors import PlanError
from aiobs.points import point_async
from aiobs.recorder import start_span, state
from aiobs.testing import capture

KEY = "0123456789abcdef0123456789abcdef"


@contextmanager
def order(what: str, **values: str) -> Iterator[Path]:
    """Arm the point ``work`` of this very process, as an injector does; gives the answer's path."""
    assert state.flight is not None
    record = state.flight.path
    files.folder_of(record).mkdir(mode=0o700, exist_ok=True)
    answer = files.path_of(record, "inj-1", files.ANSWER)
    make_answer(answer, os.getuid(), os.getgid())
    path = files.path_of(record, "inj-1", files.ARMED)
    ends = monotonic_ns() + 5_000_000_000
    files.write_order(
        path, files.Order("inj-1", "point.arm", "work", what, "seed", ends, **values), os.getuid(), os.getgid()
    )
    files.tell(record)
    try:
        yield answer
    finally:
        path.unlink()
        files.tell(record)


def test_a_hit_is_on_the_span_it_happens_in() -> None:
    with capture() as captured:
        with order("return(2)", trace_id="ab" * 16, span_id="cd" * 8), aiobs.span("request"):
            assert aiobs.point("work", 1) == 2
        with aiobs.span("later"):
            assert aiobs.point("work", 1) == 1
    span = captured.span("request")
    assert span.attributes[names.FAULT_INJECTED] is True
    assert span.attributes[names.FAULT_ID] == "inj"
    (event,) = span.events
    assert event.name == names.EVENT_FAULT_HIT
    assert [it.trace_id for it in span.links] in (["ab" * 16], [bytes.fromhex("ab" * 16)])
    assert names.FAULT_INJECTED not in captured.span("later").attributes


def test_only_signed_requests_are_hit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_KEY", KEY)
    key = KEY.encode()
    good = sign(key, "run-7", 60)
    payload, _, signature = good.partition(".")
    expired = sign(key, "run-7", 0.01)
    time.sleep(0.02)
    with capture(), order("return(2)", only="signed", key="env:CHAOS_KEY", run="run-7") as answer:
        for entry in ("", "x", payload, f"{payload}.", f"{payload[:-2]}AA.{signature}", expired, sign(key, "run-8", 60),
                      sign(b"another key, long enough", "run-7", 60)):  # fmt: skip
            token = propagation.enter_chaos({"Baggage": f"a=b, aiobs.chaos={entry};p=1"})
            assert aiobs.point("work", 1) == 1, entry
            propagation.leave_chaos(token)
        token = propagation.enter_chaos({"baggage": f"a=b,aiobs.chaos={good}"})
        assert aiobs.point("work", 1) == 2
        propagation.leave_chaos(token)
        assert aiobs.point("work", 1) == 1
        assert read_answer(answer).reached == read_answer(answer).acted == 1


def test_a_share_of_the_traces_is_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_KEY", KEY)
    with capture(), order("return(2)", only="signed", key="env:CHAOS_KEY", run="r"):
        token = propagation.enter_chaos({"baggage": f"aiobs.chaos={sign(KEY.encode(), 'r', 60, 0.3)}"})
        hits = 0
        for _ in range(400):
            with start_span("request", root=True):
                first = aiobs.point("work", 1)
                assert aiobs.point("work", 1) == first
                hits += first == 2
        propagation.leave_chaos(token)
    assert 80 < hits < 160


def test_the_entry_leaves_only_to_hosts_in_scope() -> None:
    token = propagation.enter_chaos({"baggage": "tenant=a,aiobs.chaos=p.s"})
    for host, scope, passed in (
        ("api.example.test", ["api.example.test"], True),
        ("db.example.test", [".example.test"], True),
        ("evil-example.test", [".example.test"], False),
        ("elsewhere", [], False),
    ):
        carrier = {"Baggage": "tenant=a, aiobs.chaos=p.s"}
        propagation.pass_chaos(carrier, host, scope)
        assert carrier["Baggage"] == ("tenant=a,aiobs.chaos=p.s" if passed else "tenant=a")
    propagation.leave_chaos(token)


def test_the_entry_survives_opentelemetrys_own_propagator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_KEY", KEY)
    context, propagation_of = pytest.importorskip("opentelemetry.context"), "opentelemetry.baggage.propagation"
    propagator = pytest.importorskip(propagation_of).W3CBaggagePropagator()
    entry = sign(KEY.encode(), "run-7", 60, 1.0)
    with capture(), order("return(2)", only="signed", key="env:CHAOS_KEY", run="run-7"):
        # In by their propagator, out by it to the next service, and in there by ours.
        token = context.attach(propagator.extract({"baggage": f"tenant=a,aiobs.chaos={entry}"}))
        try:
            assert aiobs.point("work", 1) == 2
            onwards: dict[str, str] = {}
            propagator.inject(onwards)
        finally:
            context.detach(token)
        assert aiobs.point("work", 1) == 1
        mark = propagation.enter_chaos(onwards)
        assert aiobs.point("work", 1) == 2
        propagation.leave_chaos(mark)


def test_sign_prints_an_entry_and_never_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    file.chmod(0o600)
    assert sign_main(["run-7", "--key", f"file:{file}", "--share", "0.5"]) == 0
    entry = capsys.readouterr().out.strip().removeprefix("aiobs.chaos=")
    found = verify(entry, read_key(f"file:{file}"))
    assert found is not None and found.run == "run-7" and found.share == 0.5
    file.chmod(0o644)
    for reference in (f"file:{file}", "env:NOT_THERE", KEY, "file:/not/there"):
        assert sign_main(["run-7", "--key", reference]) == 2
        assert KEY not in capsys.readouterr().err
    with pytest.raises(PlanError, match="needs key"):
        chaos.build_fault("point.hang", {"point": "work", "only": "signed"})


def test_every_thread_is_counted_once() -> None:
    with capture(), order("50*return(2)") as answer:
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.extend(aiobs.point("work", 1) for _ in range(100))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found.count(2) == 50
        assert (read_answer(answer).reached, read_answer(answer).acted) == (800, 50)


def test_a_latency_in_a_coroutine_lets_the_loop_go_on() -> None:
    async def both() -> float:
        began = time.monotonic()
        await asyncio.gather(*(point_async("work") for _ in range(10)))
        return time.monotonic() - began

    with capture(), order("sleep(100)"):
        assert 0.1 <= asyncio.run(both()) < 0.25


@pytest.mark.parametrize("how", ["nan", "bitflip(1)", "stale"])
@pytest.mark.parametrize("kind", ["float64", "float16", "scalar", "torch", "bfloat16"])
def test_wrong_values_keep_type_shape_and_the_right_one(how: str, kind: str) -> None:
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")

    def value(at: float) -> object:
        if kind in ("torch", "bfloat16"):
            return torch.full((2, 3), at, dtype=torch.bfloat16 if kind == "bfloat16" else torch.float32).T
        return numpy.float32(at) if kind == "scalar" else numpy.full((2, 3), at, dtype=kind)

    with capture(), order(how):
        first = aiobs.point("work", value(1.0))
        right = value(2.0)
        wrong = aiobs.point("work", right)
    for it in (first, wrong):
        assert type(it) is type(right) and it.dtype == right.dtype and it.shape == right.shape  # type: ignore[attr-defined]
    as_numbers = lambda it: [float(x) for x in it.flatten()] if hasattr(it, "flatten") else [float(it)]  # noqa: E731
    assert set(as_numbers(right)) == {2.0}
    numbers = as_numbers(wrong)
    if how == "stale":
        assert set(numbers) == {1.0}
    else:
        assert sum(math.isnan(it) if how == "nan" else it != 2.0 for it in numbers) == 1


def test_gradients_pass_a_corrupted_tensor() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.ones(3, requires_grad=True)
    with capture(), order("bitflip(1)"):
        aiobs.point("work", weight * 2).sum().backward()
    assert weight.grad.tolist() == [2.0, 2.0, 2.0]


TRAIN = """
import time, torch, aiobs
aiobs.init(service_name="trainer", agent="off")
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
loader = torch.utils.data.DataLoader(torch.randn(4000, 4), batch_size=4)
done = 0
print("ready", flush=True)
for batch in loader:
    loss = model(batch).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    done += 1
    print(done, flush=True)
    time.sleep(0.02)
"""


def test_a_rank_dies_at_the_step_named() -> None:
    pytest.importorskip("torch")
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAIN], stdout=subprocess.PIPE, text=True, env={**os.environ, "RANK": "0"}
    )
    try:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "ready\n"
        with chaos.inject("rank.kill", f"pid:{trainer.pid}", step=150, effect_s=30) as injection:
            assert trainer.wait(10) == -9
        assert trainer.stdout.read().split()[-1] == "150"  # steps 0 to 149 are done
        assert "train.step acted at 1" in injection.evidence[0]
    finally:
        trainer.kill()
        trainer.communicate()
