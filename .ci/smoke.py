"""Does the bare wheel do what it promises? Run outside the tree, in an environment with nothing else in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

RECORD = """
import os, signal
import aiobs
aiobs.init(run_name="smoke")
with aiobs.span("finished", answer=42):
    pass
with aiobs.span("open"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def call(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if run.returncode:
        sys.exit(f"{' '.join(command)} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    return run.stdout


def main() -> None:
    import aiobs

    assert Path(aiobs.__file__).is_relative_to(sys.prefix), f"{aiobs.__file__} is not the installed package"
    here = Path.cwd()
    os.environ.update(AIOBS_RUNTIME_DIR=str(here / "runtime"), AIOBS_RUN_DIR=str(here / "run"))
    call("aiobs", "doctor")
    killed = subprocess.run([sys.executable, "-c", RECORD], env=os.environ | {"AIOBS_AGENT": "off"})
    assert killed.returncode == -9, killed.returncode
    call("aiobs", "recover")
    spans = {}
    for path in sorted((here / "run").rglob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            for resource in json.loads(line).get("resourceSpans", []):
                for scope in resource["scopeSpans"]:
                    spans.update({span["name"]: span for span in scope["spans"]})
    assert {"finished", "open"} <= spans.keys(), sorted(spans)
    marks = {attribute["key"] for attribute in spans["open"]["attributes"]}
    assert "aiobs.truncated" in marks, spans["open"]
    print("the bare wheel records, survives SIGKILL and recovers")


main()
