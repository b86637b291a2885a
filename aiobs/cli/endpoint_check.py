"""Is the OTLP endpoint there, does it speak the protocol that is set, does it take what will be sent?"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from aiobs.agent.outlets import create_exporter
from aiobs.cli.findings import NOTE, OK, PROBLEM, Finding
from aiobs.cli.port_probe import Port, probe
from aiobs.errors import AiobsError, ExportError
from aiobs.ports import Body, RemoteExporter
from aiobs.telemetry import Route

TOPIC = "endpoint"
GRPC, HTTP, JSON = "grpc", "http/protobuf", "http/json"
_OTHER = {4317: 4318, 4318: 4317}
"""The two standard ports: gRPC's and HTTP's."""
_EMPTY_JSON = {"traces": b'{"resourceSpans":[]}', "metrics": b'{"resourceMetrics":[]}', "logs": b'{"resourceLogs":[]}'}


def check_endpoint(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Send an empty request for each signal that will be sent, and look closer where that fails."""
    try:
        targets: Mapping[str, Any] = importlib.import_module("aiobs.exporters.otlp_settings").targets(environment)
        exporter = create_exporter("otlp", Route(run_id="", exporters=("otlp",), environment=dict(environment)))
    except (AiobsError, ImportError) as error:
        yield Finding(TOPIC, PROBLEM, str(error), "correct this setting, or install what is missing")
        return
    if not isinstance(exporter, RemoteExporter):
        yield Finding(
            TOPIC,
            PROBLEM,
            f"the exporter otlp is {type(exporter).__name__}, which sends nothing",
            "remove the distribution that registers it",
        )
        return
    ports: dict[tuple[str, int], Port] = {}
    try:
        for signal, target in targets.items():
            yield _check(exporter, signal, target, ports)
    finally:
        exporter.close()
    if "metrics" not in targets:
        yield Finding(
            TOPIC,
            NOTE,
            "metrics and logs go into the run folder only",
            "set OTEL_METRICS_EXPORTER=otlp to send metrics too (not to Jaeger, which refuses them)",
        )


def _check(exporter: RemoteExporter, signal: str, target: Any, ports: dict[tuple[str, int], Port]) -> Finding:
    url = target.url._replace(query="").geturl()
    content = _EMPTY_JSON[signal] if target.protocol == JSON else b""
    facts = {"signal": signal, "url": url, "protocol": target.protocol}
    try:
        receipt = exporter.send(Body(signal, content, 0))
    except ExportError as error:
        host = str(target.url.hostname)
        port = target.url.port or (4317 if target.protocol == GRPC else 443 if target.url.scheme == "https" else 80)
        found = ports.setdefault((host, port), probe(host, port))
        text, remedy = _explain(signal, target, found, str(error))
        return Finding(TOPIC, PROBLEM, text, remedy, {**facts, "error": str(error)})
    text = f"{url} takes {signal} over {target.protocol}"
    return Finding(TOPIC, OK, text + (f" (it says: {receipt.message})" if receipt.message else ""), facts=facts)


def _explain(signal: str, target: Any, found: Port, error: str) -> tuple[str, str]:
    grpc = target.protocol == GRPC
    where = f"{found.host}:{found.port}"
    if found.refusal:
        other = _OTHER.get(found.port)
        if other and not probe(found.host, other).refusal:
            return f"{found.refusal}, but port {other} answers", _use(
                "grpc" if other == 4317 else HTTP, f"{target.url.scheme}://{found.host}:{other}"
            )
        if "no host" in found.refusal:
            return found.refusal, "correct the host in the endpoint"
        return (
            found.refusal,
            "start the receiver (`aiobs jaeger` starts one here), or correct the endpoint; meanwhile spans wait in the spool",
        )
    if found.tls and target.url.scheme == "http":
        return f"{where} speaks TLS, and the endpoint says http://", f"set the endpoint to https://{where}"
    if not found.tls and target.url.scheme == "https":
        return f"{where} does not speak TLS, and the endpoint says https://", f"set the endpoint to http://{where}"
    if found.tls and "certificate" in error.lower():
        return (
            f"the certificate of {where} is not trusted: {error}",
            "set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of its certificate authority",
        )
    if not grpc and found.http2 and not found.http1:
        return f"{where} speaks gRPC, and the protocol is {target.protocol}", _use(
            GRPC, f"{target.url.scheme}://{where}"
        )
    if grpc and found.http1:
        return f"{where} speaks HTTP, and the protocol is grpc", _use(HTTP, f"{target.url.scheme}://{where}")
    if "404" in error or "UNIMPLEMENTED" in error:
        if signal != "traces":
            return (
                f"{where} takes no {signal}: {error}",
                f"unset OTEL_{signal.upper()}_EXPORTER; Jaeger takes traces only",
            )
        return (
            f"there is no OTLP receiver at this path: {error}",
            f"set OTEL_EXPORTER_OTLP_ENDPOINT to http://{where} (aiobs adds /v1/traces), or the traces endpoint to the full path",
        )
    if "401" in error or "403" in error or "UNAUTHENTICATED" in error or "PERMISSION_DENIED" in error:
        return (
            f"{where} refuses us: {error}",
            "set OTEL_EXPORTER_OTLP_HEADERS to what it wants, such as authorization=Bearer%20TOKEN",
        )
    if "405" in error or "415" in error:
        return (
            f"{where} takes no {signal} over {target.protocol}: {error}",
            "try another OTEL_EXPORTER_OTLP_PROTOCOL; Jaeger takes traces only",
        )
    if not found.http1 and not found.http2:
        return f"{where} speaks neither HTTP nor gRPC: {error}", "correct the endpoint's port"
    return f"{where}: {error}", "look into the receiver's log"


def _use(protocol: str, url: str) -> str:
    return f"set OTEL_EXPORTER_OTLP_PROTOCOL={protocol} and OTEL_EXPORTER_OTLP_ENDPOINT={url}"
