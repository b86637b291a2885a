"""Every command and program in the README and on the documentation pages runs.

The blocks of one page run in order in one empty folder. A block with a title is a file (``title="train.py"``),
a python block without one is a program, a bash block is a script. A block that cannot run here is preceded by
``<!-- not run: the reason -->``; one that needs programs that are not everywhere by ``<!-- needs ip, nft -->``: where one
of them is missing, its page is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r"(?:<!-- needs (?P<needs>[^\n]+?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
TITLE = re.compile(r'title="([^"]+)"')
LANGUAGES = {"python", "bash", "toml", "yaml", "json", "text", "mermaid"}
LIMIT_S = 100


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str
    line: int
    reason: str
    needs: str


def blocks_of(page: Path) -> list[Block]:
    source = page.read_text("utf-8")
    found = []
    for match in FENCE.finditer(source):
        title = TITLE.search(match["options"])
        text = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        line = source.count("\n", 0, match.start("language")) + 1
        found.append(
            Block(match["language"], title[1] if title else "", text, line, match["reason"] or "", match["needs"] or "")
        )
    return found


def is_run(block: Block) -> bool:
    return not block.reason and not block.title and block.language in ("python", "bash")


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_blocks_are_understood(page: Path) -> None:
    blocks = blocks_of(page)
    assert len(blocks) * 2 == len(re.findall(r"^ *```", page.read_text("utf-8"), re.MULTILINE))
    assert {block.language for block in blocks} <= LANGUAGES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_run, blocks_of(page)))], ids=shown)
def test_page_runs(page: Path, tmp_path: Path) -> None:
    needed = {it.strip() for block in blocks_of(page) if is_run(block) for it in block.needs.split(",") if it.strip()}
    if missing := sorted(it for it in needed if not shutil.which(it)):
        pytest.skip(f"needs {', '.join(missing)}")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for block in blocks_of(page):
        if block.title:
            (tmp_path / block.title).write_text(block.text, "utf-8")
        elif is_run(block):
            command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
            run = subprocess.run(
                [*command, block.text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S
            )
            assert run.returncode == 0, f"{shown(page)}:{block.line}\n{block.text}\n{run.stdout}{run.stderr}"
