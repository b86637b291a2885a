"""Requests that a fault sends: as many as planned, to whom the plan says, and none after its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiobs import chaos
from aiobs.chaos.plan import build_plan
from aiobs.errors import FaultError, PlanError

from .chaos_scene import eventually

SERVICE = """
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
lock, seen = threading.Lock(), {"all": 0, "now": 0, "peak": 0, "tenants": [], "bodies": []}
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(seen)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        with lock:
            seen["all"] += 1
            seen["now"] += 1
            seen["peak"] = max(seen["peak"], seen["now"])
            seen["tenants"] = sorted({*seen["tenants"], self.headers.get("x-tenant", "")})
            seen["bodies"] = sorted({*seen["bodies"], body})
        time.sleep(float(sys.argv[1]))
        with lock:
            seen["now"] -= 1
        if "BOOM" in body:
            self.connection.close()
            return
        self.reply({"ok": True}, 422 if "BAD" in body else 404 if self.path == "/nowhere" else 200)
    def reply(self, document, status=200):
        try:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())
        except OSError:
            pass
    def handle(self):
        try:
            super().handle()
        except (OSError, ValueError):
            pass
    def log_message(self, *_):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
"""


class Service:
    """A service in a process of its own that counts what it is asked."""

    def __init__(self, delay_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(delay_s)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.target = f"service:127.0.0.1:{self.port}"

    def seen(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def asked(self) -> int:
        return int(self.seen()["all"])


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def run(delay_s: float = 0.0) -> Service:
        started.append(Service(delay_s))
        return started[-1]

    yield run
    for it in started:
        it.process.kill()
        it.process.communicate()


BODY = json.dumps({"prompt": "x"})


def test_an_overload_comes_at_its_rate_for_its_tenant_and_ends(start: Callable[..., Service]) -> None:
    service = start()
    with chaos.inject(
        "traffic.overload", service.target, rate=100, body=BODY, tenant="red", duration_s=60
    ) as injection:
        began, before = time.monotonic(), service.asked()
        assert eventually(lambda: service.asked() > before + 100)
        assert time.monotonic() - began > 0.5, "an open load does not run ahead of its rate"
    assert "x 200" in injection.evidence[0]
    after = service.seen()
    assert (after["tenants"], after["bodies"]) == (["red"], [BODY])
    time.sleep(0.3)
    assert service.asked() == after["all"], "nobody asks after the end"


def test_an_overload_keeps_its_bounds(start: Callable[..., Service]) -> None:
    service = start(0.2)
    with chaos.inject("traffic.overload", service.target, rate=500, at_once=3, body=BODY, most=1000, duration_s=60):
        assert eventually(lambda: service.asked() >= 9)
        assert service.seen()["peak"] == 3
    quick = start()
    with chaos.inject("traffic.overload", quick.target, rate=500, most=7, body=BODY, duration_s=60):
        assert eventually(lambda: quick.asked() == 7)
        time.sleep(0.2)
        assert quick.asked() == 7


def test_a_service_that_hangs_is_overloaded_too_once_all_are_under_way(start: Callable[..., Service]) -> None:
    service = start()
    service.process.send_signal(signal.SIGSTOP)
    with chaos.inject("traffic.overload", service.target, rate=500, at_once=4, body=BODY, duration_s=60) as injection:
        assert "4 under way" in injection.evidence[0]
    service.process.send_signal(signal.SIGCONT)


def test_nobody_there_is_no_effect(start: Callable[..., Service]) -> None:
    service = start()
    service.process.kill()
    service.process.wait()
    with pytest.raises(FaultError, match="not seen to act"):
        chaos.inject("traffic.overload", service.target, rate=100, body=BODY, duration_s=60, effect_s=1)


@pytest.mark.parametrize(("word", "outcome"), [("BOOM", "x cut"), ("BAD", "x 422")])
def test_poison_acts_by_what_the_service_does(start: Callable[..., Service], word: str, outcome: str) -> None:
    service = start()
    body = json.dumps({"prompt": word})
    with chaos.inject("traffic.poison", service.target, body=body, times=3, every_s=0.05, duration_s=60) as injection:
        assert eventually(lambda: service.asked() == 3)
        time.sleep(0.2)
        assert service.asked() == 3
    assert outcome in injection.evidence[0]


@pytest.mark.parametrize("values", [{}, {"path": "/nowhere"}], ids=["answered well", "nobody looked at it"])
def test_what_is_answered_well_was_no_poison(start: Callable[..., Service], values: dict[str, Any]) -> None:
    with pytest.raises(FaultError, match="not seen to act"):
        chaos.inject(
            "traffic.poison", start().target, body=BODY, times=3, every_s=0.05, duration_s=60, effect_s=1, **values
        )


def test_it_ends_with_the_experiment(start: Callable[..., Service], experiment: Callable[..., Any]) -> None:
    service = start()
    script = """
import sys, time
from aiobs import chaos
with chaos.inject(sys.argv[1], sys.argv[2], rate=200, body='{"a": 1}', duration_s=60):
    print("held", flush=True)
    time.sleep(60)
"""
    process = experiment("traffic.overload", service.target, script)
    process.send_signal(signal.SIGKILL)

    def is_quiet() -> bool:
        before = service.asked()
        time.sleep(0.2)
        return service.asked() == before

    assert eventually(is_quiet)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"path": "v1"}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": "/\r\nx: y"}, "path"),
        ({"tenant": "red\r\nx: y"}, "tenant"),
        ({"tenant_header": "x: y"}, "tenant_header"),
        ({"tenant_header": ""}, "tenant_header"),
        ({"body": "{"}, "body"),
        ({"body": '"' + "x" * (64 << 10) + '"'}, "body"),
        ({"port": 70000}, "port"),
        ({"answer_s": 0}, "answer_s"),
        ({"rate": 0}, "rate"),
        ({"most": 0}, "most"),
        ({"at_once": 0}, "at_once"),
    ],
)
def test_what_cannot_be_sent_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(PlanError, match=f"traffic.overload: {field}"):
        build_plan({"fault": "traffic.overload", "target": "tcp:127.0.0.1:1", "parameters": values})


@pytest.mark.parametrize(("values", "field"), [({"times": 0}, "times"), ({"every_s": 0}, "every_s")])
def test_poison_without_an_end_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(PlanError, match=f"traffic.poison: {field}"):
        build_plan({"fault": "traffic.poison", "target": "tcp:127.0.0.1:1", "parameters": values})


def plan(target: str, **values: Any) -> list[Any]:
    parameters = {"peers": values.pop("peers", "")}
    made = build_plan({"fault": "traffic.overload", "target": target, "parameters": parameters, **values})
    return made.operations(made.units(), "/tmp")


def test_another_machine_takes_an_explicit_word_and_a_declared_radius() -> None:
    far = "tcp:192.0.2.7:8000"
    with pytest.raises(PlanError, match=r"within.*declare the blast radius"):
        plan(far, peers="192.0.2.7")
    with pytest.raises(PlanError, match=r"peers.*192\.0\.2\.7 is not on this machine"):
        plan(far, within=far)
    with pytest.raises(PlanError, match=r"peers.*192\.0\.2\.7 is not on this machine"):
        plan(far, within=far, peers="192.0.2.8")
    with pytest.raises(PlanError, match=r"within.*outside it"):
        plan(far, within="tcp:192.0.2.8:8000", peers="192.0.2.7")
    assert "192.0.2.7" in plan(far, within=far, peers="192.0.2.7")[0].describe()
    assert plan("tcp:[::1]:8000")


@pytest.mark.skipif(os.geteuid() != 0, reason="enters a node's network: needs root")
def test_a_service_on_a_node_is_asked_from_inside(tmp_path: Path) -> None:
    from aiobs.chaos.testbed import Testbed

    script = tmp_path / "service.py"
    script.write_text(SERVICE.replace('("127.0.0.1", 0)', '("0.0.0.0", 18000)'))
    with Testbed(["a"]) as bed:
        process = bed["a"].start([sys.executable, str(script), "0"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"18000\n"
        with chaos.inject("traffic.overload", "node:a", port=18000, rate=100, body=BODY, duration_s=60) as injection:
            assert "x 200" in injection.evidence[0]
        with pytest.raises(PlanError, match="port"):
            chaos.inject("traffic.overload", "node:a", body=BODY, duration_s=60)
        process.kill()
        process.communicate()
