"""The part of a report that is about serving: requests by route and model, where slow ones waited, engines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aiobs import names
from aiobs.cli.tables import rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ROUTES = 40
"""Rows of requests and of calls that are listed, those that took most time."""
SLOWEST = 5
ERRORS = 8
SLOW_SHARE = 0.05
"""The slowest so many of a row's requests are looked into."""

_ENGINE_PARTS = (names.SPAN_QUEUE, names.SPAN_PREFILL, names.SPAN_DECODE)


def _text(key: str) -> str:
    return f"att(attributes, '{key}')"


def _number(key: str) -> str:
    return f"try_cast({_text(key)} AS DOUBLE)"


_OURS = "scope LIKE 'aiobs%'"
_INFERENCE = (
    f"coalesce({_text(names.GEN_AI_OPERATION)}, '') IN ('chat', 'text_completion', 'generate_content', 'embeddings')"
)
_ENGINE = f"kind = '' AND {_OURS} AND {_INFERENCE}"
_CALL = f"kind <> 'server' AND NOT ({_ENGINE}) AND {_INFERENCE}"
SERVING = (
    f"kind = 'server' OR ({_OURS} AND name IN ('{names.SPAN_ENGINE_STEP}', {', '.join(repr(n) for n in _ENGINE_PARTS)})) "
    f"OR {_INFERENCE}"
)
"""Condition for the spans that this section tells of."""

_COLUMNS = f"""trace, span, name, start_ns, end_ns, seconds, truncated,
    coalesce(att(resource, '{names.SERVICE_NAME}'), '') AS service,
    coalesce({_text(names.GEN_AI_RESPONSE_MODEL)}, {_text(names.GEN_AI_REQUEST_MODEL)}, '') AS model,
    CASE WHEN failed OR truncated THEN coalesce({_text(names.ERROR_TYPE)}, {_text(names.EXIT_SIGNAL)}, {_text(names.EXIT_CAUSE)}, 'error') END AS error,
    try_cast({_text(names.HTTP_STATUS)} AS INTEGER) AS status,
    coalesce({_text(names.REQUEST_DISCONNECTED)}, 'false') = 'true' AS disconnected,
    coalesce({_number(names.TIME_TO_FIRST_TOKEN)}, {_number(names.GEN_AI_RESPONSE_FIRST)}) AS first_token,
    coalesce({_number(names.STREAM_FIRST)}, {_number(names.GEN_AI_RESPONSE_FIRST)}) AS first_chunk,
    {_number(names.TIME_PER_OUTPUT_TOKEN)} AS per_token,
    {_number(names.REQUEST_QUEUE)} AS queue, {_number(names.REQUEST_PREFILL)} AS prefill, {_number(names.REQUEST_DECODE)} AS decode,
    {_number(names.REQUEST_PREEMPTIONS)} AS preemptions, {_number(names.REQUEST_LOOP_BLOCKED)} AS loop_blocked,
    {_number(names.GEN_AI_INPUT_TOKENS)} AS input_tokens, {_number(names.GEN_AI_OUTPUT_TOKENS)} AS output_tokens,
    {_number(names.STREAM_STALLS)} AS stalls, events"""

_DERIVED = f"""
CREATE TEMP TABLE requests AS WITH found AS (
    SELECT {_COLUMNS} FROM spans WHERE (kind = 'server' OR ({_ENGINE})) AND name NOT LIKE '%{names.STARTED_SUFFIX}'
), waits AS (
    -- The first wait is the queue's, the further ones are those of a request that was preempted.
    SELECT parent, sum(seconds) - arg_min(seconds, start_ns) AS preempted FROM spans
    WHERE name = '{names.SPAN_QUEUE}' AND {_OURS} GROUP BY parent HAVING count(*) > 1
), stalled AS (
    SELECT span, sum(try_cast(att(e['attributes'], '{names.STALL_DURATION}') AS DOUBLE)) AS stalled
    FROM (SELECT span, unnest(events) AS e FROM found WHERE stalls > 0)
    WHERE e['name'] = '{names.EVENT_STALL}' AND coalesce(att(e['attributes'], '{names.STALL_CAUSE}'), '') <> 'event_loop'
    GROUP BY span
)
SELECT found.* EXCLUDE (events), CASE WHEN found.queue IS NOT NULL THEN greatest(found.queue - coalesce(preempted, 0), 0) END AS queued, preempted, stalled
FROM found LEFT JOIN waits ON waits.parent = found.span LEFT JOIN stalled ON stalled.span = found.span;

CREATE TEMP TABLE calls AS SELECT {_COLUMNS} FROM spans WHERE {_CALL} AND name NOT LIKE '%{names.STARTED_SUFFIX}';
"""


def section(db: DuckDBPyConnection) -> dict[str, Any]:
    """``serving`` of the report; empty where nothing was served and no model was called.

    Counts are those of the spans: every request's span is exported. Durations are of requests that came to an end.
    """
    db.execute(_DERIVED)
    engines = _engines(db)
    requests, calls = _routes(db, "requests"), _routes(db, "calls")
    if not requests and not calls and not engines:
        return {}
    return {
        "requests": requests,
        "slow": _slow(db),
        "slowest": _slowest(db),
        "errors": _errors(db),
        "calls": calls,
        "engines": engines,
    }


def _quantiles(columns: Iterable[str]) -> str:
    return ", ".join(
        f"quantile_cont({column}, {share}) FILTER (NOT truncated) AS {column}_{name}"
        for column in columns
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    )


def _routes(db: DuckDBPyConnection, table: str) -> list[dict[str, Any]]:
    """Each service, span name and model: how many, how they ended, how long they took."""
    columns = ["seconds", "first_token", "per_token", "queue", "prefill", "decode"]
    return rows(db, f"""WITH run AS (SELECT greatest((max(end_ns) - min(start_ns)) / 1e9, 1e-9) AS whole FROM {table})
    SELECT service, name, model, count(*) AS count, count(*) / any_value(whole) AS per_second,
        count(*) FILTER (error IS NOT NULL) AS errors, count(*) FILTER (truncated) AS truncated, count(*) FILTER (disconnected) AS disconnected,
        count(*) FILTER (status BETWEEN 400 AND 499) AS refused, {_quantiles(columns)}, max(seconds) AS longest,
        sum(input_tokens)::BIGINT AS input_tokens, sum(output_tokens)::BIGINT AS output_tokens,
        sum(output_tokens) / any_value(whole) AS output_tokens_per_second,
        sum(stalls)::BIGINT AS stalls, sum(preemptions)::BIGINT AS preemptions
    FROM {table}, run GROUP BY service, name, model ORDER BY sum(seconds) DESC LIMIT {ROUTES}""")  # fmt: skip


def _slow(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    """Where the slowest requests of each row spent their time, seconds; ``other`` is what no part accounts for.

    ``stalled`` and ``loop_blocked`` lie within the other parts.
    """
    return rows(db, f"""WITH ranked AS (
        SELECT *, percent_rank() OVER (PARTITION BY service, name, model ORDER BY seconds DESC) AS place FROM requests WHERE NOT truncated
    )
    SELECT service, name, model, count(*) AS count, min(seconds) AS above, sum(seconds) AS total,
        sum(queued) AS queued, sum(preempted) AS preempted, sum(prefill) AS prefill, sum(decode) AS decode,
        CASE WHEN sum(queued) IS NULL AND sum(decode) IS NULL THEN sum(first_chunk) END AS before_first_chunk,
        CASE WHEN sum(queued) IS NULL AND sum(decode) IS NULL THEN sum(seconds - first_chunk) END AS streaming,
        sum(seconds) - sum(coalesce(queued + coalesce(preempted, 0), 0) + coalesce(prefill, 0) + coalesce(decode, 0)
            + CASE WHEN queued IS NULL AND decode IS NULL AND first_chunk IS NOT NULL THEN seconds ELSE 0 END) AS other,
        sum(stalled) AS stalled, sum(loop_blocked) AS loop_blocked
    FROM ranked WHERE place <= {SLOW_SHARE} GROUP BY service, name, model ORDER BY total DESC LIMIT {ROUTES}""")  # fmt: skip


def _slowest(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    return rows(db, f"""SELECT service, name, model, trace, span, start_ns, seconds, first_token, output_tokens::BIGINT AS output_tokens,
        input_tokens::BIGINT AS input_tokens, queued, preempted, prefill, decode, preemptions::BIGINT AS preemptions, stalled, loop_blocked,
        error, disconnected, truncated
        FROM requests ORDER BY seconds DESC LIMIT {SLOWEST}""")  # fmt: skip


def _errors(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    return rows(db, f"""SELECT service, name, error, max(status) AS status, count(*) AS count, count(*) FILTER (truncated) AS truncated,
        arg_max(trace, end_ns) AS trace FROM requests WHERE error IS NOT NULL
        GROUP BY service, name, error ORDER BY count DESC, name LIMIT {ERRORS}""")  # fmt: skip


def _engines(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    """Each engine of each process: all its steps from the metrics, and what its kept steps saw."""
    engine = f"coalesce({_text(names.ENGINE_NAME)}, '')"
    kind = _text(names.GEN_AI_TOKEN_TYPE)
    return rows(db, f"""WITH every AS (
        SELECT {engine} AS engine, who, max(count) FILTER (name = '{names.ENGINE_STEP_DURATION}') AS steps,
            max(sum) FILTER (name = '{names.ENGINE_STEP_DURATION}') AS busy, max(max) FILTER (name = '{names.ENGINE_STEP_DURATION}') AS longest,
            max(sum / count) FILTER (name = '{names.ENGINE_BATCH}' AND count > 0) AS batch, max(max) FILTER (name = '{names.ENGINE_BATCH}') AS batch_most,
            max(value) FILTER (name = '{names.ENGINE_TOKENS}' AND {kind} = 'input') AS input_tokens,
            max(value) FILTER (name = '{names.ENGINE_TOKENS}' AND {kind} = 'output') AS output_tokens
        FROM points WHERE name IN ('{names.ENGINE_STEP_DURATION}', '{names.ENGINE_BATCH}', '{names.ENGINE_TOKENS}') GROUP BY engine, who
    ), kept AS (
        SELECT {engine} AS engine, who, count(*) AS kept, sum(seconds) AS busy, max(seconds) AS longest,
            avg({_number(names.ENGINE_RUNNING)}) AS batch, max({_number(names.ENGINE_RUNNING)}) AS batch_most,
            avg({_number(names.ENGINE_WAITING)}) AS waiting, max({_number(names.ENGINE_WAITING)})::BIGINT AS waiting_most,
            avg({_number(names.ENGINE_KV_USAGE)}) AS kv, max({_number(names.ENGINE_KV_USAGE)}) AS kv_most
        FROM spans WHERE name = '{names.SPAN_ENGINE_STEP}' AND {_OURS} GROUP BY engine, who
    )
    SELECT coalesce(every.engine, kept.engine) AS engine, coalesce(every.who, kept.who)['pid'] AS pid,
        coalesce(steps, kept)::BIGINT AS steps, coalesce(kept, 0) AS kept, coalesce(every.busy, kept.busy) AS busy, coalesce(every.longest, kept.longest) AS longest,
        coalesce(every.batch, kept.batch) AS batch, coalesce(every.batch_most, kept.batch_most)::BIGINT AS batch_most,
        input_tokens::BIGINT AS input_tokens, output_tokens::BIGINT AS output_tokens, waiting, waiting_most, kv, kv_most
    FROM every FULL JOIN kept ON every.engine = kept.engine AND every.who IS NOT DISTINCT FROM kept.who
    ORDER BY busy DESC LIMIT {ROUTES}""")  # fmt: skip
