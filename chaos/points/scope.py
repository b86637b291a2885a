"""Only test traffic: whether what runs now carries a signed, unexpired entry of the experiment. Else: nothing.

The entry is ``aiobs.chaos=<payload>.<signature>`` in the request's baggage: the payload, base64url without padding,
is JSON ``{"run": …, "exp": <Unix s>, "share": 0…1}``, the signature its HMAC-SHA256 in the same letters. With a
share below 1 only that part of the traces is hit, the same traces at every service.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.points.files import read_private
from aiobs.errors import PlanError
from aiobs.propagation import carried_chaos
from aiobs.recorder import Span, innermost

KEY_BYTES = 16
LONGEST_S = 86400.0
_CONTEXT = b"aiobs.chaos 1 "


def read_key(reference: str) -> bytes:
    """The key behind a reference: ``file:<path>`` or ``env:<name>``.

    Raises:
        PlanError: there is none, it is too short, or others can read the file. The message never holds the key.
    """
    scheme, _, name = reference.partition(":")
    if scheme == "env" and name:
        key = os.environ.get(name, "").encode()
        if not key:
            raise PlanError("key", reference, "that variable is not set in the process that needs the key")
    elif scheme == "file" and name:
        try:
            key = read_private(Path(name)).strip()
        except OSError as error:
            raise PlanError("key", reference, f"cannot be read: {error.strerror}") from None
    else:
        raise PlanError("key", "…", "say where the key is: file:<path> or env:<name>; never the key itself")
    if len(key) < KEY_BYTES:
        raise PlanError("key", reference, f"holds fewer than {KEY_BYTES} bytes; make one with  openssl rand -hex 32")
    return key


def _letters(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _signature(payload: str, key: bytes) -> str:
    return _letters(hmac.new(key, _CONTEXT + payload.encode(), hashlib.sha256).digest())


def sign(key: bytes, run: str, lasts_s: float, share: float = 1.0) -> str:
    """The entry's value for requests of `run`, good for `lasts_s` seconds.

    Raises:
        PlanError: a value cannot be used.
    """
    if not run:
        raise PlanError("run", run, "name the experiment that may hit these requests")
    if not 0 < lasts_s <= LONGEST_S:
        raise PlanError("lasts_s", lasts_s, f"use seconds above 0, at most {LONGEST_S:g}")
    if not 0 < share <= 1:
        raise PlanError("share", share, "use a share above 0, at most 1")
    payload = _letters(json.dumps({"run": run, "exp": time.time() + lasts_s, "share": share}).encode())
    return f"{payload}.{_signature(payload, key)}"


@dataclass(frozen=True)
class Signed:
    """What a genuine entry says."""

    run: str
    exp: float
    share: float


def verify(entry: str, key: bytes) -> Signed | None:
    """What `entry` says; None where it is not genuine, malformed, or has expired."""
    payload, _, signature = entry.partition(".")
    if not hmac.compare_digest(signature.encode(), _signature(payload, key).encode()):
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        signed = Signed(str(found["run"]), float(found["exp"]), float(found["share"]))
    except (ValueError, TypeError, KeyError):
        return None
    return signed if time.time() < signed.exp <= time.time() + LONGEST_S else None


class Scope:
    """Requests of one experiment.

    Raises:
        PlanError: the key cannot be had.
    """

    def __init__(self, reference: str, run: str) -> None:
        self._key, self._run = read_key(reference), run

    def covers(self) -> bool:
        """Whether what runs now may be hit."""
        entry = carried_chaos()
        signed = verify(entry, self._key) if entry else None
        return signed is not None and signed.run == self._run and (signed.share >= 1 or self._cohort() < signed.share)

    def _cohort(self) -> float:
        """Where the trace stands between 0 and 1, the same everywhere; 1 where there is no trace."""
        around = innermost()
        if around is None:
            return 1.0
        context = around.context if isinstance(around, Span) else around
        digest = hashlib.sha256(self._run.encode() + context.trace_id).digest()
        return int.from_bytes(digest[:8], "big") / (1 << 64)
