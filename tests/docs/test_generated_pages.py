"""Pages that repeat what the code says are current."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_settings_page_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "settings_page.py"))["page"]()
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == made, "run  python docs/settings_page.py"


def test_command_line_page_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "cli_page.py"))["page"]()
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == made, "run  python docs/cli_page.py"
