"""LitServe, which nobody here wrote, started by ``aiobs run`` as it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("litserve")

from .processes import free_port, wait_for  # noqa: E402


def run(folder: Path, kind: str, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The text answered and the attributes of the request's span, with its name."""
    port = free_port()
    program = str(Path(__file__).parent / "litserve_app.py")
    launched = subprocess.Popen(
        [sys.executable, "-m", "aiobs.cli", "run", "--", sys.executable, program, str(port), kind],
        env={**os.environ, "AIOBS_RUN_DIR": str(folder / "run")}, cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(port, launched, 60)
        text = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=30).text
    finally:
        os.killpg(launched.pid, signal.SIGINT)
        try:
            launched.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(launched.pid, signal.SIGKILL)
            launched.wait()
    for file in (folder / "run").glob("traces*.jsonl"):
        for line in file.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                for span in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
                    if span["kind"] == 2 and span["name"].startswith("POST"):
                        facts = {it["key"]: next(iter(it["value"].values())) for it in span.get("attributes", ())}
                        return text, {"name": span["name"], **facts}
    raise AssertionError("no request was recorded")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "stream", "openai"])
def test_a_litserve_server(tmp_path: Path, kind: str) -> None:
    question = {"model": "lit", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    if kind == "openai":
        text, facts = run(tmp_path, kind, "/v1/chat/completions", question)
        assert "three" in text
        assert facts["name"] == "POST /v1/chat/completions" and facts["gen_ai.request.model"] == "lit"
        assert facts["aiobs.request.time_to_first_token"] >= 0.02
        assert facts["gen_ai.response.finish_reasons"] == {"values": [{"stringValue": "stop"}]}
        return
    text, facts = run(tmp_path, kind, "/predict", {"input": 5})
    assert facts["name"] == "POST /predict" and facts["http.response.status_code"] == "200"
    if kind == "plain":
        assert json.loads(text) == {"output": 25}
    else:
        assert text.count("data:") == 5
        assert facts["aiobs.stream.chunks"] == "5"
        assert 0.015 < facts["aiobs.stream.chunk.p50"] < 0.06
