"""Keep secrets of a command line out of telemetry."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "[hidden]"

_WORD = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|auth(?:orization)?|bearer|credentials?|cookie)s?"
_FLAG = re.compile(rf"--?(?:[\w.]*[-_.])?{_WORD}", re.IGNORECASE)
_ASSIGNMENT = re.compile(rf"((?:--?)?(?:[\w.]*[-_.])?{_WORD}=).+", re.IGNORECASE | re.DOTALL)
# Words that look like a secret's name but count tokens, which training programs do a lot.
_HARMLESS = re.compile(r"(?:max|min|num|n|new|total)[-_.].*tokens?|.*[-_.]tokens[-_.]?.*|--?tokens", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(\w[\w+.-]*://)[^/@\s]+@")


def redacted(command: Sequence[str]) -> list[str]:
    """`command` with the values of ``--password``, ``--api-key=…``, ``TOKEN=…`` and logins in URLs hidden."""
    shown: list[str] = []
    hide_next = False
    for word in command:
        if hide_next and not word.startswith("-"):
            shown.append(HIDDEN)
            hide_next = False
            continue
        name = word.partition("=")[0]
        harmless = _HARMLESS.fullmatch(name.lstrip("-")) is not None or _HARMLESS.fullmatch(name) is not None
        hide_next = not harmless and _FLAG.fullmatch(word) is not None
        if not harmless:
            word = _ASSIGNMENT.sub(rf"\1{HIDDEN}", word, count=1) if _ASSIGNMENT.fullmatch(word) else word
        shown.append(_URL_LOGIN.sub(rf"\1{HIDDEN}@", word))
    return shown
