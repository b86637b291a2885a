"""What happened in a run, as one JSON-able dict: the whole content of ``aiobs summary``.

Times are seconds, points in time Unix nanoseconds. A section without content is an empty list or dict.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiobs import names
from aiobs.cli import report_serving, report_steps
from aiobs.cli.run_folder import about
from aiobs.cli.run_record import ROLE
from aiobs.cli.tables import load, rows
from aiobs.errors import RecordError
from aiobs.recorder.schema import OWN_SCOPE

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

EXCEPTIONS = 10
"""Kinds of exceptions listed."""
OWN_SPANS = 12
"""Kinds of the user's own spans listed."""

_NAMED = (names.SPAN_RUN, names.SPAN_PROCESS, names.SPAN_STEP, names.SPAN_RANK_STEP, names.SPAN_COMPILE, names.SPAN_EVALUATE, names.SPAN_INIT,
          names.SPAN_CHECKPOINT_SAVE, names.SPAN_CHECKPOINT_LOAD, names.SPAN_CHECKPOINT_WRITE)  # fmt: skip


def report(folder: Path) -> dict[str, Any]:
    """Read the run folder `folder`.

    Raises:
        NotEnabledError: DuckDB is not installed.
        RecordError: it is no run folder, holds nothing yet, or cannot be read.
    """
    db = load(folder)
    try:
        if not db.execute("SELECT (SELECT count(*) FROM spans) + (SELECT count(*) FROM points)").fetchone()[0]:  # type: ignore[index]
            raise RecordError(str(folder), "holds no spans yet")
        return {
            "folder": str(folder),
            "run": _run(db, about(folder)),
            "processes": _processes(db),
            **report_steps.sections(db),
            "serving": report_serving.section(db),
            "checkpoints": _by_name(
                db, names.SPAN_CHECKPOINT_SAVE, names.SPAN_CHECKPOINT_LOAD, names.SPAN_CHECKPOINT_WRITE
            ),
            "compile": _compile(db),
            "evaluate": _by_name(db, names.SPAN_EVALUATE),
            "init": _by_name(db, names.SPAN_INIT),
            "scalars": _scalars(db),
            "own_spans": _own_spans(db),
            "exceptions": _exceptions(db),
            "losses": _losses(db),
        }
    finally:
        db.close()


def _att(key: str) -> str:
    return f"att(attributes, '{key}')"


def _run(db: DuckDBPyConnection, described: dict[str, Any]) -> dict[str, Any]:
    whole = rows(db, f"""SELECT count(*) AS spans, count(DISTINCT trace) AS traces, min(start_ns) AS start_ns, max(end_ns) AS end_ns,
        max(att(resource, '{names.RUN_ID}')) AS id, max(att(resource, '{names.RUN_TRACE_ID}')) AS trace,
        coalesce(bool_or(att(resource, '{names.GPU_FAKE}') = 'true'), false) AS fake_gpus FROM spans""")[0]  # fmt: skip
    found = rows(db, f"""SELECT trace, start_ns, end_ns, truncated AS cut, {_att(names.RUN_NAME)} AS name, {_att(names.COMMAND)} AS command,
        {_att(names.EXIT_CAUSE)} AS cause, try_cast({_att(names.PROCESS_EXIT_CODE)} AS BIGINT) AS exit_code, {_att(names.EXIT_SIGNAL)} AS signal,
        att(resource, '{names.PROCESS_ROLE}') = '{ROLE}' AS launched
        FROM spans WHERE name = '{names.SPAN_RUN}' AND scope = '{OWN_SCOPE}' ORDER BY start_ns LIMIT 1""")  # fmt: skip
    run = {"name": None, "command": None, "cut": False, "launched": False, **whole, **(found[0] if found else {})}
    run["id"] = run["id"] or described.get("run_id")
    run["name"] = run["name"] or described.get("run_name")
    restarts = db.execute(f"""SELECT count(*) FROM (SELECT unnest(events) AS e FROM spans WHERE len(events) > 0)
        WHERE e['name'] = '{names.EVENT_RESTART}'""").fetchone()
    run["restarts"] = restarts[0] if restarts else 0
    run["seconds"] = ((run["end_ns"] or 0) - (run["start_ns"] or 0)) / 1e9
    return run


def _processes(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    """Each recorded process but the launcher, which only holds the run's own span."""
    return rows(db, f"""WITH whole AS (
        SELECT who, min(start_ns) AS start_ns, max(end_ns) AS last_ns, count(*) AS spans, count(*) FILTER (truncated) AS truncated,
            arg_max(att(resource, '{names.SERVICE_NAME}'), end_ns) AS service, any_value(att(resource, '{names.PROCESS_ROLE}')) AS role
        FROM spans GROUP BY who
    ), ends AS (
        SELECT who, any_value(start_ns) AS begun_ns, any_value(end_ns) AS end_ns, bool_or(truncated) AS cut,
            any_value({_att(names.EXIT_CAUSE)}) AS cause, any_value({_att(names.PROCESS_EXIT_CODE)}) AS exit_code,
            any_value({_att(names.EXIT_SIGNAL)}) AS signal
        FROM spans WHERE name = '{names.SPAN_PROCESS}' AND scope = '{OWN_SCOPE}' GROUP BY who
    )
    SELECT whole.who['rank'] AS rank, whole.who['pid'] AS pid, whole.who['host'] AS host, whole.who['attempt'] AS attempt,
        service, role, coalesce(begun_ns, start_ns) AS start_ns,
        (coalesce(end_ns, last_ns) - coalesce(begun_ns, start_ns)) / 1e9 AS seconds,
        spans, truncated, cause, try_cast(exit_code AS BIGINT) AS exit_code, signal, end_ns, coalesce(cut, false) AS cut
    FROM whole LEFT JOIN ends ON whole.who IS NOT DISTINCT FROM ends.who
    WHERE role IS DISTINCT FROM '{ROLE}'
    ORDER BY attempt, rank NULLS LAST, start_ns""")  # fmt: skip


def _by_name(db: DuckDBPyConnection, *wanted: str) -> list[dict[str, Any]]:
    return rows(db, f"""SELECT name, count(*) AS count, sum(seconds) AS total, quantile_cont(seconds, 0.5) AS p50, max(seconds) AS longest,
        sum(try_cast({_att(names.CHECKPOINT_BYTES)} AS DOUBLE)) AS bytes,
        sum(try_cast({_att(names.EVALUATE_BATCHES)} AS BIGINT))::BIGINT AS batches,
        count(*) FILTER (failed) AS failed, count(*) FILTER (truncated) AS truncated
        FROM spans WHERE list_contains(?, name) AND scope LIKE 'aiobs%' GROUP BY name ORDER BY name""", [list(wanted)])  # fmt: skip


def _compile(db: DuckDBPyConnection) -> dict[str, Any]:
    whole = _by_name(db, names.SPAN_COMPILE)
    if not whole:
        return {}
    triggers = rows(db, f"""SELECT coalesce({_att(names.COMPILE_TRIGGER)}, 'first call') AS trigger, count(*) AS count, sum(seconds) AS total
        FROM spans WHERE name = '{names.SPAN_COMPILE}' AND scope LIKE 'aiobs%' GROUP BY trigger ORDER BY total DESC LIMIT 5""")  # fmt: skip
    return {**whole[0], "triggers": triggers}


def _scalars(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    """First, last and extremes of each logged value: the last from the gauge, the rest from the kept steps."""
    prefix = names.SCALAR_PREFIX
    metrics = [names.TRAIN_STEP_DURATION, names.TRAIN_PHASE_DURATION, names.TRAIN_STEPS, names.TRAIN_STEPS_SKIPPED]
    return rows(db, f"""WITH seen AS (
        SELECT name, value, time_ns, false AS kept FROM points
        WHERE kind = 'number' AND name LIKE '{prefix}%' AND NOT list_contains(?, name)
        UNION ALL
        SELECT a['key'], try_cast(shown(a['value']) AS DOUBLE), end_ns, true FROM
            (SELECT unnest(attributes) AS a, end_ns FROM spans WHERE step IS NOT NULL)
        WHERE a['key'] LIKE '{prefix}%'
    )
    SELECT substr(name, {len(prefix) + 1}) AS name, arg_min(value, time_ns) AS first, arg_max(value, time_ns) AS last,
        min(value) AS least, max(value) AS most, count(*) FILTER (kept) AS kept
    FROM seen WHERE value IS NOT NULL GROUP BY name ORDER BY name""", [metrics])  # fmt: skip


def _own_spans(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    return rows(db, f"""SELECT name, scope, count(*) AS count, sum(seconds) AS total, quantile_cont(seconds, 0.5) AS p50,
        quantile_cont(seconds, 0.95) AS p95, max(seconds) AS longest, count(*) FILTER (failed) AS failed
        FROM spans WHERE NOT list_contains(?, name) AND name NOT LIKE '%{names.STARTED_SUFFIX}' AND NOT ({report_serving.SERVING})
            AND parent NOT IN (SELECT span FROM spans WHERE step IS NOT NULL AND name IN ('{names.SPAN_STEP}', '{names.SPAN_RANK_STEP}'))
        GROUP BY name, scope ORDER BY total DESC LIMIT {OWN_SPANS}""", [list(_NAMED)])  # fmt: skip


def _exceptions(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    return rows(db, f"""WITH each AS (
        SELECT unnest(events) AS e, name, who FROM spans WHERE len(events) > 0
    )
    SELECT att(e['attributes'], '{names.EXCEPTION_TYPE}') AS type, att(e['attributes'], '{names.EXCEPTION_MESSAGE}') AS message,
        count(*) AS count, arg_max(name, e['timeUnixNano']) AS span, list_sort(list_distinct(list(who['rank']))) AS ranks
    FROM each WHERE e['name'] = '{names.EVENT_EXCEPTION}' GROUP BY type, message ORDER BY count DESC, type LIMIT {EXCEPTIONS}""")  # fmt: skip


def _losses(db: DuckDBPyConnection) -> list[dict[str, Any]]:
    """What is missing from the folder, and why."""
    events = rows(db, f"""SELECT e['name'] AS what, [pair['key'] || '=' || shown(pair['value']) for pair in e['attributes']] AS details
        FROM (SELECT unnest(events) AS e FROM spans WHERE len(events) > 0) WHERE e['name'] = '{names.EVENT_RECORDS_LOST}'""")  # fmt: skip
    counters = rows(db, f"""SELECT name AS what, attributes, sum(value) AS count FROM points
        WHERE name IN ('{names.SPOOL_DROPPED}', '{names.AGENT_FAULTS}', '{names.CLIPPED}', '{names.SDK_PROCESSED}', '{names.SDK_EXPORTED}') AND value > 0
        GROUP BY name, attributes""")  # fmt: skip
    found = [
        {"what": event["what"], "reason": "", "details": ", ".join(event["details"] or ()), "count": None}
        for event in events
    ]
    for counter in counters:
        labels = {
            pair["key"]: next((v for v in pair["value"].values() if v is not None), "")
            for pair in counter["attributes"] or ()
        }
        reason = labels.pop(names.ERROR_TYPE, "")
        # The SDK's counters of success carry no error.type; those with one count what was given up.
        if counter["what"] in (names.SDK_PROCESSED, names.SDK_EXPORTED) and not reason:
            continue
        details = ", ".join(map(str, labels.values()))
        found.append({"what": counter["what"], "reason": reason, "details": details, "count": int(counter["count"])})
    return found
