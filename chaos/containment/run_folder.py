"""A run folder (OTLP JSON Lines, ours or a Collector's file exporter) as a source, read once by DuckDB."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiobs import names
from aiobs.chaos.containment.boundaries import PLAIN, conditions
from aiobs.chaos.containment.fault_spans import fault_of
from aiobs.chaos.containment.glimpse import glimpse
from aiobs.chaos.containment.model import REST, Fault, Samples, Seen, Slo, Spec
from aiobs.chaos.containment.spec import expand
from aiobs.errors import NotEnabledError, RecordError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "1700MB"
"""DuckDB's own limit; what is more goes to a temporary folder."""

_VALUE = 'STRUCT("stringValue" VARCHAR, "intValue" VARCHAR, "doubleValue" VARCHAR, "boolValue" VARCHAR)'
_ATTRIBUTES = f'STRUCT("key" VARCHAR, "value" {_VALUE})[]'
_EVENTS = f'STRUCT("name" VARCHAR, "timeUnixNano" BIGINT, "attributes" {_ATTRIBUTES})[]'
_SPANS = (
    'STRUCT("traceId" VARCHAR, "spanId" VARCHAR, "name" VARCHAR, "kind" VARCHAR, "startTimeUnixNano" BIGINT, '
    f'"endTimeUnixNano" BIGINT, "attributes" {_ATTRIBUTES}, "status" STRUCT("code" VARCHAR), "events" {_EVENTS})[]'
)
_GROUPS = f'STRUCT("resource" STRUCT("attributes" {_ATTRIBUTES}), "scopeSpans" STRUCT("spans" {_SPANS})[])[]'
_MACROS = """
CREATE MACRO shown(v) AS coalesce(v['stringValue'], v['intValue'], v['doubleValue'], v['boolValue']);
CREATE MACRO att(list, key) AS shown(list[list_position([pair['key'] for pair in list], key)]['value']);
CREATE MACRO kind(k) AS CASE k WHEN '2' THEN 'server' WHEN '3' THEN 'client' WHEN '4' THEN 'producer' WHEN '5' THEN 'consumer'
    WHEN '1' THEN 'internal' ELSE lower(replace(coalesce(k, 'internal'), 'SPAN_KIND_', '')) END;
"""


class RunFolder:
    """See the module's text.

    Args:
        folder: with ``traces*.jsonl`` in it, or one such file.
        spec: what will be asked of it; boundaries for each value are filled in from what it holds.

    Raises:
        NotEnabledError: DuckDB is not installed.
        RecordError: it is no run folder, or cannot be read.
        PlanError: the spec names what no telemetry carries.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        try:
            import duckdb
        except ImportError:
            raise NotEnabledError("the verdict", "containment") from None
        paths = [folder] if folder.is_file() else sorted(folder.glob("traces*.jsonl"))
        self._paths = [str(path) for path in paths if path.stat().st_size]
        if not self._paths:
            raise RecordError(str(folder), "holds no spans: there is no traces*.jsonl with anything in it")
        self._db: DuckDBPyConnection = duckdb.connect()
        try:
            self._db.execute(
                f"SET enable_progress_bar = false; SET memory_limit = '{MEMORY}'; SET threads = 2; SET preserve_insertion_order = false"
            )
            self._db.execute(_MACROS)
            self._values = glimpse(self._paths)
            self._read(spec)
        except duckdb.Error as error:
            self._db.close()
            raise RecordError(str(folder), f"cannot be read: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        """Let go of the memory."""
        self._db.close()

    def _source(self) -> str:
        return (
            f"read_json(?, columns = {{'resourceSpans': '{_GROUPS}'}}, format = 'newline_delimited', ignore_errors = true, "
            "maximum_object_size = 33554432)"
        )

    def _read(self, spec: Spec) -> None:
        values = sorted({slo.indicator.value for slo in spec.slos if slo.indicator.value not in ("", "duration")})
        self._columns = {value: f"v{place}" for place, value in enumerate(values)}
        asked = [boundary.where for boundary in spec.boundaries]
        asked += [where for slo in spec.slos for where in (slo.indicator.spans, slo.indicator.bad)]
        keys = {
            key: f"k{place}"
            for place, key in enumerate(sorted({*values, *[key for where in asked for key in where]} - {*PLAIN}))
        }
        # Looked up once for each resource, and once for each span that does not have it from there.
        of_resource = "".join(
            [f", att(g['resource']['attributes'], '{_quoted(key)}') AS r{name}" for key, name in keys.items()]
        )
        of_span = "".join(
            [f", coalesce(r{name}, att(x['attributes'], '{_quoted(key)}')) AS {name}" for key, name in keys.items()]
        )
        passed = "".join([f", r{name}" for name in keys.values()])
        counted = [conditions(slo.indicator.spans, keys) for slo in spec.slos]
        # A request that failed before it had the value (no first token ever came) kept no promise either.
        bad = [
            conditions(slo.indicator.bad, keys, any_of=True)
            if slo.indicator.bad
            else "error"
            if slo.kind == "threshold"
            else "false"
            for slo in spec.slos
        ]
        units = {key: keys[key] for boundary in spec.boundaries for key in boundary.where if key in keys}
        told = "".join([f", {name}" for name in units.values()])
        wanted = "".join([f", try_cast({keys[value]} AS FLOAT) AS {name}" for value, name in self._columns.items()])
        self._db.execute(f"""CREATE TABLE told AS SELECT start_ns, name, kind, error, ((end_ns - start_ns) / 1e9)::FLOAT AS duration, key,
            {_mask(counted)} AS counts, {_mask(bad)} AS bad, fault {wanted} {told}
        FROM (SELECT x['name'] AS name, kind(x['kind']) AS kind, x['startTimeUnixNano'] AS start_ns,
                x['endTimeUnixNano'] AS end_ns, hash(x['traceId'], x['spanId']) AS key {of_span},
                coalesce(x['status']['code'] IN ('2', 'STATUS_CODE_ERROR'), false)
                    OR coalesce(att(x['attributes'], '{names.TRUNCATED}') = 'true', false) AS error,
                CASE WHEN starts_with(x['name'], '{names.SPAN_FAULT} ') THEN to_json(x)::VARCHAR END AS fault
            FROM (SELECT unnest(s['spans']) AS x {passed} FROM (SELECT unnest(g['scopeSpans']) AS s {of_resource}
                FROM (SELECT unnest(resourceSpans) AS g FROM {self._source()})))
            WHERE x['startTimeUnixNano'] > 0 AND x['endTimeUnixNano'] IS NOT NULL)""", [self._paths])  # fmt: skip
        # Boundaries for each value are known only now that all are read.
        for key, name in units.items():
            each = self._db.execute(
                f"SELECT DISTINCT {name} FROM told WHERE {name} IS NOT NULL ORDER BY 1 LIMIT 1000"
            ).fetchall()
            self._values[key] = tuple([row[0] for row in each])
        self.spec = expand(spec, self._values)
        member = [conditions(boundary.where, keys) for boundary in self.spec.boundaries]
        self._db.execute(f"""CREATE TABLE spans AS SELECT start_ns, duration, key, counts, bad, fault,
            {_mask(member)} AS member {"".join([f", {name}" for name in self._columns.values()])} FROM told""")  # fmt: skip
        self._db.execute("DROP TABLE told")
        total, single = self._one("SELECT count(*), count(DISTINCT key) FROM spans")
        self._duplicates = total - single
        if self._duplicates:
            self._db.execute(
                "CREATE TABLE once AS SELECT DISTINCT ON (key) * FROM spans; DROP TABLE spans; ALTER TABLE once RENAME TO spans"
            )

    def _one(self, query: str) -> Any:
        return self._db.execute(query).fetchone()

    def files(self) -> tuple[Path, ...]:
        """The OTLP JSON Lines that were read, in which the spans of a trace can be looked up."""
        return tuple([Path(path) for path in self._paths])

    def seen(self) -> Seen:
        """What there is."""
        spans, first, last, backwards = self._one(
            "SELECT count(*), coalesce(min(start_ns), 0), coalesce(max(start_ns), 0), count(*) FILTER (duration < 0) FROM spans WHERE fault IS NULL"
        )
        alive = self._db.execute(
            "SELECT DISTINCT start_ns // 100000000 * 100000000 AS moment FROM spans WHERE fault IS NULL ORDER BY 1"
        ).fetchnumpy()["moment"]
        return Seen(spans, self._duplicates, (first, last), alive, self._values, (), backwards)

    def faults(self) -> tuple[Fault, ...]:
        """Faults on the record, by time."""
        rows = self._db.execute("SELECT fault FROM spans WHERE fault IS NOT NULL ORDER BY start_ns").fetchall()
        return tuple([fault_of(json.loads(row[0])) for row in rows])

    def carriers(self) -> Mapping[str, int]:
        """How many spans each boundary holds."""
        columns = ", ".join(
            f"count(*) FILTER (member & {1 << place} > 0)" for place in range(len(self.spec.boundaries))
        )
        found = self._one(f"SELECT {columns} FROM spans")
        return dict(zip([boundary.name for boundary in self.spec.boundaries], found, strict=True))

    def samples(self, spec: Spec, permitted: Sequence[str]) -> tuple[Samples, ...]:
        """See :class:`~aiobs.chaos.containment.model.Source`."""
        inside = sum(1 << place for place, boundary in enumerate(spec.boundaries) if boundary.name in permitted)
        strata = [("+".join(permitted), "inside", f"member & {inside} > 0")]
        strata += [
            (boundary.name, "outside", f"member & {1 << place} > 0 AND member & {inside} = 0")
            for place, boundary in enumerate(spec.boundaries)
            if boundary.name not in permitted
        ]
        if spec.rest:
            strata.append((REST, "outside", "member = 0"))
        return tuple([self._samples(place, slo, *stratum) for place, slo in enumerate(spec.slos) for stratum in strata])

    def _samples(self, place: int, slo: Slo, stratum: str, side: Any, where: str) -> Samples:
        import numpy as np

        value = "duration" if slo.indicator.value == "duration" else self._columns.get(slo.indicator.value, "")
        found: Any = self._db.execute(
            f"""SELECT start_ns, bad & {1 << place} > 0 AS bad {", " + value + " AS value" if value else ""} FROM spans
            WHERE {where} AND counts & {1 << place} > 0 AND fault IS NULL AND duration >= 0 ORDER BY start_ns"""
        ).fetchnumpy()
        start = np.asarray(found["start_ns"])
        bad = np.asarray(found["bad"], dtype=bool)
        if not value:
            return Samples(stratum, slo.name, side, start, bad, np.empty(0))
        numbers = np.ma.filled(np.ma.asarray(found["value"], dtype=np.float32), np.nan)
        known = ~np.isnan(numbers)
        if slo.kind == "threshold" and slo.indicator.above is not None:
            failed = bad & ~known
            bad = (numbers > slo.indicator.above) | failed
            known = known | failed
        dropped = int((~known).sum())
        return Samples(stratum, slo.name, side, start[known], bad[known], numbers[known], dropped)


def _mask(each: Sequence[str]) -> str:
    parts = [f"CASE WHEN {one} THEN {1 << place} ELSE 0 END" for place, one in enumerate(each)]
    return "(" + (" + ".join(parts) or "0") + ")::BIGINT"


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def open_folder(folder: Path, spec: Spec) -> tuple[RunFolder, Spec]:
    """The folder, and `spec` with its boundaries filled in."""
    source = RunFolder(folder, spec)
    return source, source.spec
