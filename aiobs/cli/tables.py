"""A run folder as DuckDB tables ``spans``, ``points``, ``histograms`` and ``logs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiobs import names
from aiobs.cli.run_folder import signal_files
from aiobs.errors import NotEnabledError, RecordError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_VALUE = (
    'STRUCT("stringValue" VARCHAR, "intValue" VARCHAR, "doubleValue" VARCHAR, "boolValue" VARCHAR, "arrayValue" JSON)'
)
_ATTRIBUTES = f'STRUCT("key" VARCHAR, "value" {_VALUE})[]'
_EVENT = f'STRUCT("name" VARCHAR, "timeUnixNano" BIGINT, "attributes" {_ATTRIBUTES})[]'
_SPAN = (
    'STRUCT("traceId" VARCHAR, "spanId" VARCHAR, "parentSpanId" VARCHAR, "name" VARCHAR, "kind" VARCHAR, "startTimeUnixNano" BIGINT, '
    f'"endTimeUnixNano" BIGINT, "attributes" {_ATTRIBUTES}, "status" STRUCT("code" INTEGER, "message" VARCHAR), "events" {_EVENT})[]'
)
_POINT = (
    f'STRUCT("attributes" {_ATTRIBUTES}, "startTimeUnixNano" BIGINT, "timeUnixNano" BIGINT, "asInt" VARCHAR, "asDouble" VARCHAR, '
    '"count" BIGINT, "sum" DOUBLE, "min" DOUBLE, "max" DOUBLE, "explicitBounds" DOUBLE[], "bucketCounts" BIGINT[])[]'
)
_METRIC = (
    'STRUCT("name" VARCHAR, "unit" VARCHAR, '
    + ", ".join(f'"{kind}" STRUCT("dataPoints" {_POINT})' for kind in ("sum", "gauge", "histogram"))
    + ")[]"
)
_LOG = (
    f'STRUCT("timeUnixNano" BIGINT, "eventName" VARCHAR, "severityNumber" INTEGER, "body" {_VALUE}, "attributes" {_ATTRIBUTES}, '
    '"traceId" VARCHAR, "spanId" VARCHAR)[]'
)
_SIGNALS = {
    "traces": ("resourceSpans", "scopeSpans", "spans", _SPAN),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics", _METRIC),
    "logs": ("resourceLogs", "scopeLogs", "logRecords", _LOG),
}

_WHO = {
    "host": f"att(list, '{names.HOST_NAME}')",
    "pid": f"try_cast(att(list, '{names.PROCESS_PID}') AS BIGINT)",
    "rank": f"try_cast(att(list, '{names.RANK}') AS BIGINT)",
    "attempt": f"coalesce(try_cast(att(list, '{names.RUN_ATTEMPT}') AS BIGINT), 0)",
    "instance": f"coalesce(att(list, '{names.SERVICE_INSTANCE_ID}'), '')",
}
_MACROS = f"""
CREATE MACRO shown(v) AS coalesce(v['stringValue'], v['intValue'], v['doubleValue'], v['boolValue'], v['arrayValue']::VARCHAR);
CREATE MACRO att(list, key) AS shown(list[list_position([pair['key'] for pair in list], key)]['value']);
CREATE MACRO who(list) AS {{{", ".join(f"'{key}': {value}" for key, value in _WHO.items())}}};
"""

_TABLES = f"""
CREATE TABLE spans AS SELECT
    x['traceId'] AS trace, x['spanId'] AS span, coalesce(x['parentSpanId'], '') AS parent, x['name'] AS name, scope,
    CASE x['kind'] WHEN '2' THEN 'server' WHEN 'SPAN_KIND_SERVER' THEN 'server' WHEN '3' THEN 'client' WHEN 'SPAN_KIND_CLIENT' THEN 'client' ELSE '' END AS kind,
    x['startTimeUnixNano'] AS start_ns, x['endTimeUnixNano'] AS end_ns,
    (x['endTimeUnixNano'] - x['startTimeUnixNano']) / 1e9 AS seconds, who(resource) AS who, resource,
    x['attributes'] AS attributes, coalesce(x['status']['code'], 0) = 2 AS failed, x['events'] AS events,
    coalesce(att(x['attributes'], '{names.TRUNCATED}'), 'false') = 'true' AS truncated,
    try_cast(att(x['attributes'], '{names.STEP}') AS BIGINT) AS step
FROM (SELECT resource, scope, unnest(items) AS x FROM raw_traces);

CREATE TABLE points AS WITH metrics AS (SELECT resource, unnest(items) AS m FROM raw_metrics),
each AS (
    SELECT resource, m['name'] AS name, m['unit'] AS unit, 'number' AS kind, unnest(m['sum']['dataPoints']) AS p FROM metrics
    UNION ALL SELECT resource, m['name'], m['unit'], 'number', unnest(m['gauge']['dataPoints']) FROM metrics
    UNION ALL SELECT resource, m['name'], m['unit'], 'histogram', unnest(m['histogram']['dataPoints']) FROM metrics
)
SELECT name, unit, kind, who(resource) AS who, p['attributes'] AS attributes, p['startTimeUnixNano'] AS start_ns,
    p['timeUnixNano'] AS time_ns, coalesce(try_cast(p['asInt'] AS DOUBLE), try_cast(p['asDouble'] AS DOUBLE)) AS value,
    p['count'] AS count, p['sum'] AS sum, p['max'] AS max
FROM each
-- Metrics are cumulative: of each series the last point says it all.
QUALIFY row_number() OVER (PARTITION BY name, who(resource), p['attributes'], p['startTimeUnixNano'] ORDER BY p['timeUnixNano'] DESC) = 1;

CREATE TABLE logs AS SELECT who(resource) AS who, x['timeUnixNano'] AS time_ns, coalesce(x['eventName'], '') AS event,
    coalesce(x['severityNumber'], 0) AS severity, shown(x['body']) AS body, x['attributes'] AS attributes
FROM (SELECT resource, unnest(items) AS x FROM raw_logs);
"""


def load(folder: Path) -> DuckDBPyConnection:
    """Open the run folder `folder`; the last line of a file may be torn, it is left out.

    Raises:
        NotEnabledError: DuckDB is not installed.
        RecordError: it is no run folder, or a file in it cannot be read.
    """
    try:
        import duckdb
    except ImportError:
        raise NotEnabledError("the summary", "report") from None
    if not any(signal_files(folder, signal) for signal in _SIGNALS):
        raise RecordError(str(folder), "is no run folder: it holds no traces*.jsonl, metrics*.jsonl or logs*.jsonl")
    db = duckdb.connect()
    try:
        db.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        db.execute(_MACROS)
        for signal, (groups, scopes, items, item) in _SIGNALS.items():
            scope = f'STRUCT("scope" STRUCT("name" VARCHAR), "{items}" {item})[]'
            kind = f'STRUCT("resource" STRUCT("attributes" {_ATTRIBUTES}), "{scopes}" {scope})[]'
            source, parameters = _source(folder, signal, groups, kind)
            db.execute(
                f"""CREATE TEMP TABLE raw_{signal} AS SELECT g['resource']['attributes'] AS resource, s['scope']['name'] AS scope,
                s['{items}'] AS items FROM (SELECT g, unnest(g['{scopes}']) AS s FROM (SELECT unnest({groups}) AS g FROM {source}))""",
                parameters,
            )
        db.execute(_TABLES)
    except duckdb.Error as error:
        db.close()
        raise RecordError(str(folder), f"cannot be read: {str(error).splitlines()[0]}") from error
    return db


def _source(folder: Path, signal: str, groups: str, kind: str) -> tuple[str, list[Any]]:
    paths = [str(path) for path in signal_files(folder, signal) if path.stat().st_size]
    if not paths:
        return f"(SELECT NULL::{kind} AS {groups} WHERE false)", []
    reading = "format = 'newline_delimited', ignore_errors = true, maximum_object_size = 268435456"
    return f"read_json(?, columns = {{'{groups}': '{kind}'}}, {reading})", [paths]


def rows(db: DuckDBPyConnection, query: str, parameters: list[Any] | None = None) -> list[dict[str, Any]]:
    """The rows of `query` as dicts."""
    result = db.execute(query, parameters or [])
    columns = [column[0] for column in result.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]
