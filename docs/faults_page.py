"""Writes faults.md from the faults and targets there are:  python docs/faults_page.py"""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path

from aiobs.chaos.fault import Fault, fault_kinds
from aiobs.chaos.target import target_schemes

PAGE = Path(__file__).with_name("faults.md")
HEAD = """\
# Faults and targets

Every fault, what it does, what a passed experiment with it shows and what it does not. `aiobs chaos list` says the
same; both are made from the faults' own texts (this page by `python docs/faults_page.py`).

"""


def prose(text: str | None) -> str:
    """A docstring's text without its attribute list, on one line."""
    body = (text or "").split("Attributes:")[0]
    return " ".join(body.replace("``", "`").split())


def meanings(made: type[Fault]) -> dict[str, str]:
    """What each parameter means, from the docstring's attribute list."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (made.__doc__ or "").partition("Attributes:")[2].splitlines():
        head, colon, text = line.strip().partition(": ")
        if colon and line.startswith("        ") and not line.startswith("         "):
            names = [name.strip() for name in head.split(",")]
            found.update(dict.fromkeys(names, text))
        elif line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return {name: text.replace("``", "`") for name, text in found.items()}


def section(kind: str, made: type[Fault]) -> str:
    """The part of the page about one fault."""
    said = meanings(made)
    rows = "".join(
        f"| `{it.name}` | {'needed' if it.default is MISSING else f'`{it.default}`' if it.default != '' else ''} "
        f"| {said.get(it.name, '')} |\n"
        for it in fields(made)
    )
    table = f"\n| parameter | default | meaning |\n|---|---|---|\n{rows}" if rows else ""
    root = " Needs root." if made.root else ""
    return (
        f"## {kind}\n\n{prose(made.__doc__)}{root}\n{table}\n"
        f"- **Shows**: {made.certifies}\n- **Does not show**: {made.limits}\n\n"
    )


def page() -> str:
    """The text of faults.md."""
    targets = "".join(f"| `{name}:{it.example}` | {prose(it.__doc__)} |\n" for name, it in target_schemes().items())
    parts = [HEAD, "## Targets\n\n| target | means |\n|---|---|\n", targets, "\n"]
    parts += [section(kind, made) for kind, made in fault_kinds().items()]
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
