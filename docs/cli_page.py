"""Writes cli.md from the parsers of the command line:  python docs/cli_page.py"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from aiobs.cli.main import VERBS, verb_module

PAGE = Path(__file__).with_name("cli.md")
HEAD = """\
# Command line

```bash
aiobs --help
```

One verb, then its options. `aiobs <verb> --help` says the same as this page, which is made from the verbs' own
parsers by `python docs/cli_page.py`.

`aiobs run` ends as its command ended. The other verbs exit with 0 where all is well, with 2 where they were asked for
something that cannot be done (an option, a value, a missing extra), and with 1 where they found a problem.

"""


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A table row for each option and argument."""
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)) or action.help == argparse.SUPPRESS:
            continue
        value = action.metavar or (" or ".join(map(str, action.choices)) if action.choices else action.dest.upper())
        if not action.option_strings:
            shown = action.metavar or action.dest
        elif action.nargs == 0:
            shown = ", ".join(action.option_strings)
        else:
            shown = f"{', '.join(action.option_strings)} {value}"
        meaning = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
        yield f"| `{shown}` | {meaning.replace('<', '&lt;')} |\n"


def section(title: str, parser: argparse.ArgumentParser, level: int = 2) -> Iterator[str]:
    """The part of the page about one verb, and below it its own verbs."""
    yield f"{'#' * level} {title}\n\n"
    if parser.description:
        yield f"{' '.join(parser.description.split())}\n\n"
    rows = list(options_of(parser))
    if rows:
        yield "| option | meaning |\n|---|---|\n"
        yield from rows
        yield "\n"
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```\n\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from section(f"{title} {name}", inner, level + 1)


def page() -> str:
    """The text of cli.md."""
    parts = [HEAD]
    for verb in VERBS:
        parts += section(f"aiobs {verb}", verb_module(verb).parser())
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
