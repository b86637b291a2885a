"""Prometheus' HTTP API: the samples of a query, as they were scraped."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiobs.errors import PlanError, RecordError

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Series:
    """One series.

    Attributes:
        times: Unix ns, ascending.
        values: floats, as many.
    """

    labels: Mapping[str, str]
    times: tuple[int, ...]
    values: tuple[float, ...]


class NotASelector(Exception):  # noqa: N818 - an answer
    """The query computes something: there are no scraped samples of it."""


class PrometheusApi:
    """Asks a server at `url`; ``http://user:password@host`` sends them along."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PlanError("prometheus", url, "prometheus:http://HOST:PORT")
        self._headers = {}
        if parts.username:
            text = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(text.encode()).decode()
        host = parts.netloc.rpartition("@")[2]
        self.url = urllib.parse.urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))

    def scraped(self, query: str, first_ns: int, end_ns: int) -> list[Series]:
        """Every sample of a series selector in that time.

        Raises:
            NotASelector: the query is more than a selector.
            PlanError: the server does not understand it.
            RecordError: the server cannot be asked.
        """
        length = max(1, -(-(end_ns - first_ns) // 10**6))
        try:
            return self._ask("query", {"query": f"{query}[{length}ms]", "time": f"{end_ns / 1e9:.3f}"}, query)
        except PlanError:
            # Is it the range that it does not understand, or the query itself?
            self._ask("query", {"query": query, "time": f"{end_ns / 1e9:.3f}"}, query)
            raise NotASelector from None

    def computed(self, query: str, first_ns: int, end_ns: int, step_s: float) -> list[Series]:
        """The query's value each `step_s`. Raises as :meth:`scraped`."""
        span = {"start": f"{first_ns / 1e9:.3f}", "end": f"{end_ns / 1e9:.3f}", "step": f"{step_s:.3f}"}
        return self._ask("query_range", {"query": query, **span}, query)

    def _ask(self, what: str, arguments: dict[str, str], query: str) -> list[Series]:
        request = urllib.request.Request(  # noqa: S310 - http or https, see __init__
            f"{self.url}/api/v1/{what}", urllib.parse.urlencode(arguments).encode(), self._headers
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                said = _said(error.read())
            if error.code in (400, 422) and said:
                raise PlanError("query", query, f"Prometheus says: {said}") from error
            raise RecordError(self.url, f"Prometheus answers {error.code} {said or error.reason}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise RecordError(self.url, f"Prometheus cannot be asked: {reason}") from error
        try:
            if found["data"]["resultType"] == "scalar":
                raise PlanError("query", query, "it is one number, not a series")
            return [_series(it) for it in found["data"]["result"]]
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(self.url, f"it is no Prometheus: its answer has another shape ({error})") from error


def _said(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def _series(it: Any) -> Series:
    pairs = it.get("values") or ([it["value"]] if "value" in it else [])
    return Series(
        it["metric"], tuple([round(float(at) * 1e3) * 10**6 for at, _ in pairs]), tuple([float(value) for _, value in pairs])
    )  # fmt: skip
