"""What must not be recorded: keys, tokens and passwords in URLs and texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote_plus

REDACTED = "REDACTED"
PATH_LIMIT = 1024
QUERY_LIMIT = 1024

_SECRET_NAME = re.compile(
    r"token|key|secret|passw|pwd|sig|auth|cred|session|jwt|otp|pin\b|code\b|assertion|ticket|nonce|hmac|hash|x-amz-",
    re.IGNORECASE,
)
"""In the name of a query parameter: its value is not recorded. Rather one too many than one too few."""

_KEYS = (
    r"\b(?:sk|pk|rk|hf|xox[abprs]|gh[pousr]|github_pat|glpat|AIza|AKIA|ASIA)[-_]?[A-Za-z0-9_\-]{16,}"  # vendors' keys
    r"|\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?"  # a JSON Web Token
    r"|\b[Bb]earer\s+[A-Za-z0-9._~+/\-]{8,}=*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]{0,8192}?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
_KEY = re.compile(_KEYS)
_USER = re.compile(r"(?<=//)[^/@\s]*@")
_PERSONAL = re.compile(
    rf"(?P<key>{_KEYS})"
    r"|(?P<mail>\b[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9\-]{0,62}\.)+[A-Za-z]{2,24}\b)"
    r"|(?P<card>\b\d(?:[ \-]?\d){12,18}\b)"
)

_more: list[Callable[[str], str]] = []


def shown_path(path: str) -> str:
    """A URL's path as it is recorded: bounded, without user names, passwords and keys."""
    if "@" in path:
        path = _USER.sub(f"{REDACTED}@", path)
    return _KEY.sub(REDACTED, path[:PATH_LIMIT]) if len(path) > 16 else path


def shown_query(query: str) -> str:
    """A URL's query as it is recorded: bounded, with the values that may be secret replaced."""
    cut = query[:QUERY_LIMIT]
    parts = cut.split("&")
    for index, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if not equals:
            # A bare word may be a token as well as a flag.
            parts[index] = part if len(part) <= 16 and not _KEY.search(part) else REDACTED
        elif value and (_SECRET_NAME.search(unquote_plus(name)) or _KEY.search(unquote_plus(value)) or "@" in unquote_plus(value)):  # fmt: skip
            parts[index] = f"{name}={REDACTED}"
    return "&".join(parts)


def redact(text: str) -> str:
    """`text` of a prompt or completion without keys, e-mail addresses and card numbers, and through what
    :func:`redact_with` was given."""
    text = _PERSONAL.sub(_mask, text)
    for function in _more:
        text = str(function(text))
    return text


def _mask(found: re.Match[str]) -> str:
    kind = found.lastgroup or "key"
    if kind == "card" and not _is_card(found[0]):
        return found[0]
    return f"[{kind}]"


def _is_card(text: str) -> bool:
    """Whether the digits of `text` have a card number's check digit."""
    digits = [int(letter) for letter in text if letter.isdigit()]
    doubled = [digit if place % 2 == 0 else digit * 2 - 9 * (digit > 4) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def redact_with(function: Callable[[str], str]) -> Callable[[], None]:
    """Pass recorded prompts and completions through `function` too, after the built-in patterns.

    It gets each text, cut to the limit, and returns what may be recorded. Where it raises, nothing of that request
    is recorded.

    Returns:
        a function that takes it back.
    """
    _more.append(function)

    def remove() -> None:
        if function in _more:
            _more.remove(function)

    return remove
