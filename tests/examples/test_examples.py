"""The examples run, as they are and under ``aiobs run``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=110)


def test_the_training_script_knows_nothing_of_us() -> None:
    assert "aiobs" not in (EXAMPLES / "train_digits.py").read_text()


@pytest.mark.slow
def test_training_gives_the_same_with_and_without_us(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    torch = pytest.importorskip("torch")
    train = [sys.executable, str(EXAMPLES / "train_digits.py"), "--epochs", "2", "--out"]
    bare = run(*train, "bare", cwd=tmp_path)
    ours = run(sys.executable, "-m", "aiobs.cli", "run", "--", *train, "ours", cwd=tmp_path)
    assert bare.returncode == ours.returncode == 0, ours.stderr

    def timeless(text: str) -> str:
        return re.sub(r"[\d.]+ s$|saved .*", "", text, flags=re.MULTILINE)

    assert timeless(ours.stdout) == timeless(bare.stdout)
    assert float(re.findall(r"accuracy ([\d.]+)", ours.stdout)[-1]) > 0.9
    first, second = (torch.load(tmp_path / name / "digits.pt")["model"] for name in ("bare", "ours"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "90 steps" in ours.stderr
    for row in ("data.wait", "forward", "backward", "optimizer", "evaluate", "checkpoint save"):
        assert re.search(rf"^  {row} ", ours.stderr, re.MULTILINE), ours.stderr


@pytest.mark.parametrize(
    "launcher", [[], ["-m", "aiobs.cli", "run", "--quiet", "--", sys.executable]], ids=["bare", "aiobs run"]
)
def test_the_tour_of_the_api(tmp_path: Path, launcher: list[str]) -> None:
    done = run(sys.executable, *launcher, str(EXAMPLES / "api_tour.py"), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    run(sys.executable, "-m", "aiobs.cli", "recover", cwd=tmp_path)
    found = json.loads(run(sys.executable, "-m", "aiobs.cli", "summary", "--json", cwd=tmp_path).stdout)
    assert {span["name"]: span["count"] for span in found["own_spans"]} == {
        "prepare": 1, "generate": 1, "fetch all": 1, "fetch shard": 3, "squares": 1, "square": 4, "risky": 1,
    }  # fmt: skip
    assert found["steps"]["count"] == 20
    assert found["slowest"][0]["step"] == 13
    assert [scalar["name"] for scalar in found["scalars"]] == ["loss"]
    assert found["exceptions"][0]["type"] == "ValueError"
