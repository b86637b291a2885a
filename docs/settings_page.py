"""Writes settings.md from the rows of `aiobs.settings`:  python docs/settings_page.py"""

from __future__ import annotations

from pathlib import Path

from aiobs.settings import ROWS

PAGE = Path(__file__).with_name("settings.md")
HEAD = """\
# Settings

Every setting is one row of this table, and one loader reads them all. An argument beats the environment, the
environment beats the file, the file beats the default.

- **In code**: `aiobs.init(keep_every=100)`, by the name in the first column.
- **Environment**: the variable in the second column.
- **File**: `aiobs.toml` in the working directory, or the file `AIOBS_CONFIG` names; a flat table of the names in
  the first column.

```toml title="aiobs.toml"
keep_every = 100
exporters = ["jsonl", "otlp"]
```

A value that cannot be used is never half-used. Where you asked for aiobs in code or on the command line, it is an
error that names the setting, the value and the remedy. Otherwise it is said once and the default stands.

The table is made from `aiobs/settings.py` by `python docs/settings_page.py`.

| name | environment | default | meaning |
|---|---|---|---|
"""


def default_shown(value: object) -> str:
    """A default as a person would write it in the environment."""
    if isinstance(value, bool):
        return f"`{int(value)}`"
    if isinstance(value, int) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"`{value >> 20}m`"
    if value in ("", ()):
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def page() -> str:
    """The text of settings.md."""
    rows = [
        f"| `{row.name}` | `{row.metadata['env']}` | {default_shown(row.default)} | {row.metadata['doc']} |\n"
        for row in ROWS
    ]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
