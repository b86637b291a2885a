"""Client, gateway and engine, three processes: one trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .processes import free_port
from .runs import recorded, spans_of

for needed in ("openai", "httpx", "uvicorn", "starlette"):
    pytest.importorskip(needed)
pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ASK = """
import os, socket, subprocess, sys, time
here, engine, gateway = sys.argv[1:]

def start(script, port):
    process = subprocess.Popen([sys.executable, f"{here}/{script}.py", port])
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                return process
        time.sleep(0.05)
    raise SystemExit("it does not listen")

os.environ["ENGINE_URL"] = f"http://127.0.0.1:{engine}"
servers = [start("openai_server", engine), start("gateway_app", gateway)]
try:
    import aiobs, openai
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{gateway}/v1", api_key="x", max_retries=0)
    with aiobs.span("asking"):
        ask = {"model": "slow", "messages": [{"role": "user", "content": "hi"}]}
        assert len(list(client.chat.completions.create(stream=True, **ask))) == 6
finally:
    for server in servers:
        server.terminate()
        server.wait(10)
"""


@pytest.mark.parametrize("http_spans", [True, False], ids=["with http spans", "context alone"])
def test_from_the_client_through_the_gateway_to_the_engine(tmp_path: Path, http_spans: bool) -> None:
    if http_spans:
        pytest.importorskip("opentelemetry.instrumentation.httpx")
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    # Without OpenTelemetry's package: httpx carries the context all the same, and makes no span.
    environment = {} if http_spans else {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httpx,httpx2"}
    process = recorded(tmp_path, [str(script), str(HERE), str(free_port()), str(free_port())], **environment)
    assert process.wait(60) == 0
    spans = spans_of(tmp_path)
    by_id = {span["spanId"]: span for span in spans}
    (asking,) = [span for span in spans if span["name"] == "asking"]
    (call,) = [span for span in spans if span["name"] == "chat slow" and span["kind"] == 3]
    served = [
        span
        for span in spans
        if span["kind"] == 2 and "/v1/" in span["attributes"].get("url.path", "") and "(started)" not in span["name"]
    ]
    gateway, engine = sorted(served, key=lambda span: int(span["startTimeUnixNano"]))
    assert {span["traceId"] for span in (call, gateway, engine)} == {asking["traceId"]}
    assert call["parentSpanId"] == asking["spanId"]
    assert gateway["parentSpanId"] == call["spanId"]
    sent = [span for span in spans if span["kind"] == 3 and span is not call]
    if http_spans:
        (passed,) = sent
        assert engine["parentSpanId"] == passed["spanId"]
        assert passed["parentSpanId"] == gateway["spanId"]
    else:
        assert not sent
        assert engine["parentSpanId"] == gateway["spanId"]
    pids = {by_id[span["spanId"]]["resource"]["process.pid"] for span in (call, gateway, engine)}
    assert len(pids) == 3
    for span in (call, gateway, engine):
        assert span["attributes"]["gen_ai.request.model"] == "slow"
    assert inside(call, gateway) and inside(gateway, engine)


def inside(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    """Whether the clocks of two processes of one machine agree that `inner` begins within `outer`."""
    begins = int(inner["startTimeUnixNano"])
    return int(outer["startTimeUnixNano"]) - 2_000_000 <= begins <= int(outer["endTimeUnixNano"])
