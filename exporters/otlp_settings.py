"""The standard ``OTEL_EXPORTER_OTLP_*`` variables, read for each signal.

Two readings of the specification differ in practice; here ``…_TIMEOUT`` is in seconds, as OpenTelemetry Python
has it. Values of headers are secrets: they never appear in a message.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from aiobs.errors import SettingError

GRPC, PROTOBUF, JSON = "grpc", "http/protobuf", "http/json"
SIGNALS = ("traces", "metrics", "logs")
HIDDEN = "<hidden>"
"""Stands for a value that may hold a secret."""


@dataclass(frozen=True)
class Target:
    """Where and how one signal is sent.

    Attributes:
        url: without user and password. `timeout_s`: for one request. `gzip`: compress.
        headers: lower-case names. `insecure`: plain text, for gRPC.
        certificate, client_key, client_certificate: files, "" where not given.
    """

    signal: str
    protocol: str
    url: SplitResult
    headers: Mapping[str, str]
    timeout_s: float
    gzip: bool
    insecure: bool
    certificate: str
    client_key: str
    client_certificate: str


def targets(environment: Mapping[str, str]) -> dict[str, Target]:
    """The targets by signal: traces always, metrics and logs where they were asked for.

    They are asked for by an ``otlp`` in ``OTEL_METRICS_EXPORTER`` or ``OTEL_LOGS_EXPORTER``, or by an endpoint of
    their own. The reason: the most common receiver, Jaeger, takes traces only and refuses the others.

    Raises:
        SettingError: a variable cannot be used.
    """
    return {signal: _target(signal, environment) for signal in SIGNALS if _wanted(signal, environment)}


def _wanted(signal: str, environment: Mapping[str, str]) -> bool:
    if signal == "traces":
        return True
    named = [name.strip() for name in environment.get(f"OTEL_{signal.upper()}_EXPORTER", "").split(",")]
    if "none" in named:
        return False
    return "otlp" in named or bool(environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"))


class _Variables:
    """Variables of one signal, which override the general ones."""

    def __init__(self, signal: str, environment: Mapping[str, str]) -> None:
        self._signal = signal
        self._environment = environment

    def get(self, name: str, default: str = "") -> tuple[str, str]:
        """The name of the variable that decides, and its value."""
        for field in (f"OTEL_EXPORTER_OTLP_{self._signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
            value = self._environment.get(field, "").strip()
            if value:
                return field, value
        return f"OTEL_EXPORTER_OTLP_{name}", default


def _target(signal: str, environment: Mapping[str, str]) -> Target:
    variables = _Variables(signal, environment)
    field, protocol = variables.get("PROTOCOL", PROTOBUF)
    if protocol not in (GRPC, PROTOBUF, JSON):
        raise SettingError(field, protocol, f"use {PROTOBUF}, {JSON} or {GRPC}")
    url, insecure = _endpoint(signal, protocol, variables)
    headers = _headers(*variables.get("HEADERS"))
    if url.username is not None:
        headers.setdefault("authorization", _basic(url))
        url = url._replace(netloc=url.netloc.rpartition("@")[2])
    field, compression = variables.get("COMPRESSION", "none")
    if compression not in ("gzip", "none"):
        raise SettingError(field, compression, "use gzip or none")
    return Target(
        signal=signal,
        protocol=protocol,
        url=url,
        headers=headers,
        timeout_s=_timeout(*variables.get("TIMEOUT", "10")),
        gzip=compression == "gzip",
        insecure=insecure,
        certificate=_file(*variables.get("CERTIFICATE")),
        client_key=_file(*variables.get("CLIENT_KEY")),
        client_certificate=_file(*variables.get("CLIENT_CERTIFICATE")),
    )


def _endpoint(signal: str, protocol: str, variables: _Variables) -> tuple[SplitResult, bool]:
    """The URL, and whether it is plain text."""
    usual = f"http://localhost:{4317 if protocol == GRPC else 4318}"
    field, endpoint = variables.get("ENDPOINT", usual)
    shown = endpoint.rpartition("@")[2]
    remedy = f"write a URL such as {usual}"
    plain = False
    if "://" not in endpoint and protocol == GRPC:
        plain = variables.get("INSECURE")[1].lower() == "true"
        endpoint = f"{'http' if plain else 'https'}://{endpoint}"
    try:
        url = urlsplit(endpoint)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        raise SettingError(field, shown, remedy) from None
    if not valid or any(ord(character) <= 32 for character in endpoint):
        raise SettingError(field, shown, remedy)
    if protocol != GRPC and field == "OTEL_EXPORTER_OTLP_ENDPOINT":
        url = url._replace(path=f"{url.path.rstrip('/')}/v1/{signal}")
    return url, url.scheme == "http"


def _headers(field: str, given: str) -> dict[str, str]:
    """``key=value,key=value``, with values percent-encoded."""
    headers = {}
    for part in given.split(","):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        name, value = unquote(name).strip().lower(), unquote(value).strip()
        if not equals or not name or not name.isascii() or any(c in " :\r\n\0" for c in name):
            raise SettingError(field, HIDDEN, "write name=value pairs, separated by commas")
        if any(c in "\r\n\0" for c in value) or not value.isascii():
            raise SettingError(field, HIDDEN, f"the value of {name} has characters that a header cannot hold")
        headers[name] = value
    return headers


def _basic(url: SplitResult) -> str:
    from base64 import b64encode

    credentials = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    return "Basic " + b64encode(credentials.encode()).decode()


def _timeout(field: str, given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86400:
        raise SettingError(field, given, "give seconds, such as 10")
    return seconds


def _file(field: str, given: str) -> str:
    if given and not os.path.isfile(given):
        raise SettingError(field, given, "there is no such file")
    return given
