"""What requests and engine steps add to the metrics of their process: every one, whether its span is exported or not.

Values come from the finished spans' own times and attributes; the attributes of a metric are those its convention
asks for, as far as a caller cannot make up as many of them as it likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiobs import names
from aiobs.agent.decode import Found
from aiobs.agent.metrics import Attributes, Metrics
from aiobs.recorder.schema import OWN_SCOPE
from aiobs.telemetry import CLIENT, INTERNAL, LINK_REMOTE_FLAGS, SERVER, STATUS_ERROR, Exemplar, Row

INFERENCE: Final = frozenset({"chat", "text_completion", "generate_content", "embeddings"})
"""Operations of a model; others that bear ``gen_ai.operation.name`` (agents, tools) have metrics of their own."""
IDLE_NS: Final = 1_000_000_000
"""An engine without requests that made no step for so long is idle."""
ENGINES: Final = 100
"""Engines of one process that are watched for being idle."""
UNNAMED_ERROR: Final = "_OTHER"
"""``error.type`` of a failure that names no type."""

_TOO_MUCH: Final = 1 << 62
_GRPC_STATUS: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_HTTP = (names.HTTP_METHOD, names.HTTP_ROUTE, names.HTTP_STATUS, names.PROTOCOL_VERSION, names.URL_SCHEME)
_MODEL = (
    names.GEN_AI_OPERATION, names.GEN_AI_PROVIDER, names.GEN_AI_REQUEST_MODEL, names.GEN_AI_RESPONSE_MODEL,
    names.SERVER_ADDRESS, names.SERVER_PORT,
)  # fmt: skip
_ENGAGED = (names.SPAN_ENGINE_STEP, names.SPAN_QUEUE, names.SPAN_PREFILL, names.SPAN_DECODE)
_TOKENS = ((names.GEN_AI_INPUT_TOKENS, "input"), (names.GEN_AI_OUTPUT_TOKENS, "output"))
_STATES = ((names.ENGINE_RUNNING, "running"), (names.ENGINE_WAITING, "waiting"))
_STEP_TOKENS = ((names.ENGINE_PREFILL_TOKENS, "input"), (names.ENGINE_DECODE_TOKENS, "output"))


class ServingMetrics:
    """Those of one process; `left_out` counts engine steps that are not exported."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.left_out = 0
        self._active: set[Attributes] = set()
        self._stepped: dict[Attributes, int] = {}

    def see(self, row: Row, *, cut: str = "") -> bool:
        """Count a finished span in; says whether it is to be exported.

        Args:
            cut: how its process ended, where that ended the span: then it counts as failed, of that type.
        """
        shape, extra = row[0], row[7]
        found = dict(zip(shape.keys, row[6]))  # noqa: B905 - a row has a value for each key
        if extra is not None:
            found.update(extra.attributes)
        if shape.name == names.SPAN_ENGINE_STEP and shape.scope.startswith(OWN_SCOPE):
            return self._step(row, found)
        operation = found.get(names.GEN_AI_OPERATION)
        if shape.kind != SERVER and not (isinstance(operation, str) and operation in INFERENCE):
            return True
        it = _Request(self.metrics, row, found, cut)
        if cut and extra is not None and extra.status == STATUS_ERROR:
            extra.attributes.setdefault(names.ERROR_TYPE, cut)
        if shape.kind == SERVER:
            self._entrance(it)
            if isinstance(operation, str):
                self._answer(it)
        else:
            # An engine's own span is the request where nothing else is: not behind a server that has counted it.
            if shape.kind != INTERNAL or not shape.scope.startswith(OWN_SCOPE):
                self._call(it)
            elif extra is None or extra.flags != LINK_REMOTE_FLAGS:
                self._answer(it)
        return True

    # -- requests ------------------------------------------------------------------------------------------
    def _entrance(self, it: _Request) -> None:
        found = it.found
        if names.HTTP_METHOD in found:
            where = it.chosen((names.HTTP_METHOD, names.HTTP_ROUTE))
            # What the caller did wrong is an error of the call of a model, not one of the HTTP server.
            attributes = it.chosen(_HTTP) if it.refused else it.failed(it.chosen(_HTTP))
            it.observe(names.HTTP_SERVER_DURATION, it.seconds, attributes)
        elif names.RPC_SYSTEM in found or names.RPC_SYSTEM_NAME in found:
            where = _called(found)
            it.observe(names.RPC_SERVER_DURATION, it.seconds, it.failed((*where, *_rpc_status(found))))
        else:
            return
        if found.get(names.REQUEST_DISCONNECTED) is True:
            self.metrics.add(names.SERVER_DISCONNECTS, 1, where)
        stalls = _number(found.get(names.STREAM_STALLS))
        if stalls:
            self.metrics.add(names.SERVER_STALLS, int(stalls), where)

    def _answer(self, it: _Request) -> None:
        """A request to a model, at the server."""
        found = it.found
        model = it.model()
        it.observe(names.GEN_AI_SERVER_DURATION, it.seconds, it.failed(model))
        if not it.error:
            it.measure(names.GEN_AI_SERVER_FIRST_TOKEN, names.TIME_TO_FIRST_TOKEN, model)
            it.measure(names.GEN_AI_SERVER_OUTPUT_TOKEN, names.TIME_PER_OUTPUT_TOKEN, model)
        for key in (names.REQUEST_QUEUE, names.REQUEST_PREFILL, names.REQUEST_DECODE):
            it.measure(key, key, model)
        for key, kind in _TOKENS:
            count = _number(found.get(key))
            if count:
                self.metrics.add(names.SERVER_TOKENS, int(count), (*model, (names.GEN_AI_TOKEN_TYPE, kind)))
        preempted = _number(found.get(names.REQUEST_PREEMPTIONS))
        if preempted:
            self.metrics.add(names.ENGINE_PREEMPTIONS, int(preempted), model)

    def _call(self, it: _Request) -> None:
        """A request to a model, at the caller."""
        found = it.found
        model = it.model()
        it.observe(names.GEN_AI_CLIENT_DURATION, it.seconds, it.failed(model))
        for key, kind in _TOKENS:
            count = _number(found.get(key))
            if count is not None:
                it.observe(names.GEN_AI_CLIENT_TOKENS, count, (*model, (names.GEN_AI_TOKEN_TYPE, kind)))
        first = it.measure(names.GEN_AI_CLIENT_FIRST_CHUNK, names.GEN_AI_RESPONSE_FIRST, model)
        chunks = _number(found.get(names.STREAM_CHUNKS))
        if first is not None and chunks is not None and chunks > 1 and it.seconds >= first:
            it.observe(names.GEN_AI_CLIENT_OUTPUT_CHUNK, (it.seconds - first) / (chunks - 1), model)

    def see_open(self, marks: Iterable[Found], time_ns: int) -> None:
        """Set what can be counted at any time: `marks` are all spans that are open at `time_ns` (Unix)."""
        counts: Counter[Attributes] = Counter()
        engaged = False
        for mark in marks:
            engaged = engaged or mark.shape.name in _ENGAGED
            if mark.shape.kind == SERVER:
                found = mark.all_attributes()
                if names.HTTP_METHOD in found:
                    counts[_chosen(found, (names.HTTP_METHOD, names.URL_SCHEME))] += 1
        for attributes in self._active - counts.keys():
            self.metrics.set(names.HTTP_SERVER_ACTIVE, 0, time_ns, attributes)
        for attributes, count in counts.items():
            self.metrics.set(names.HTTP_SERVER_ACTIVE, count, time_ns, attributes)
        self._active = set(counts)
        if not engaged:
            self._idle(time_ns)

    def _idle(self, time_ns: int) -> None:
        """No request is in an engine: nobody but us would say so, as an idle engine makes no steps."""
        for engine, end_ns in list(self._stepped.items()):
            if time_ns - end_ns >= IDLE_NS:
                for _, state in _STATES:
                    self.metrics.set(names.ENGINE_REQUESTS, 0, time_ns, (*engine, (names.ENGINE_STATE, state)))
                del self._stepped[engine]

    # -- engine steps --------------------------------------------------------------------------------------
    def _step(self, row: Row, found: Mapping[str, Any]) -> bool:
        kept = found.get(names.ENGINE_STEP_KEPT) is not False
        engine = _chosen(found, (names.ENGINE_NAME,))
        seconds, end_ns = (row[5] - row[4]) / 1e9, row[5]
        metrics = self.metrics
        metrics.observe(names.ENGINE_STEP_DURATION, seconds, engine)
        if kept:
            metrics.exemplify(names.ENGINE_STEP_DURATION, Exemplar(seconds, end_ns, row[1], row[2]), engine)
        if len(self._stepped) < ENGINES:
            self._stepped[engine] = end_ns
        for key, state in _STATES:
            count = _number(found.get(key))
            if count is not None:
                if key == names.ENGINE_RUNNING:
                    metrics.observe(names.ENGINE_BATCH, count, engine)
                metrics.set(names.ENGINE_REQUESTS, int(count), end_ns, (*engine, (names.ENGINE_STATE, state)))
        usage = _number(found.get(names.ENGINE_KV_USAGE))
        if usage is not None:
            metrics.set(names.ENGINE_KV_USAGE, usage, end_ns, engine)
        for key, kind in _STEP_TOKENS:
            count = _number(found.get(key))
            if count:
                metrics.add(names.ENGINE_TOKENS, int(count), (*engine, (names.GEN_AI_TOKEN_TYPE, kind)))
        self.left_out += not kept
        return kept

    # -- across the agent's death --------------------------------------------------------------------------
    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        return {
            "left_out": self.left_out,
            "active": list(self._active),
            "stepped": list(self._stepped.items()),
        }

    def restore(self, state: dict[str, Any], metrics: Metrics) -> None:
        """Take over what `snapshot` gave, and the process's restored metrics."""
        self.metrics, self.left_out = metrics, state["left_out"]
        self._active = {_thawed(attributes) for attributes in state["active"]}
        self._stepped = {_thawed(engine): end_ns for engine, end_ns in state["stepped"]}


class _Request:
    """A finished span of a request, and where its measurements go.

    Attributes:
        found: all its attributes. `seconds`: its duration.
        error: ``error.type``, "" where it did not fail.
        refused: a server answered that the caller was mistaken.
    """

    __slots__ = ("_metrics", "_row", "error", "found", "refused", "seconds")

    def __init__(self, metrics: Metrics, row: Row, found: Mapping[str, Any], cut: str) -> None:
        self._metrics, self._row, self.found = metrics, row, found
        self.seconds = (row[5] - row[4]) / 1e9
        error = found.get(names.ERROR_TYPE)
        if cut:
            self.error = cut
        elif isinstance(error, str) and error:
            self.error = error
        else:
            self.error = UNNAMED_ERROR if row[7] is not None and row[7].status == STATUS_ERROR else ""
        status = _number(found.get(names.HTTP_STATUS))
        self.refused = row[0].kind == SERVER and status is not None and 400 <= status < 500 and not cut

    def observe(self, name: str, value: float, attributes: Attributes) -> None:
        """Count `value` in, with the span as its exemplar."""
        row = self._row
        self._metrics.observe(name, value, attributes, Exemplar(value, row[5], row[1], row[2]))

    def measure(self, name: str, key: str, attributes: Attributes) -> float | None:
        """Count the seconds of the span attribute `key` in, where it has them; returns them."""
        value = _number(self.found.get(key))
        if value is not None:
            self.observe(name, value, attributes)
        return value

    def chosen(self, keys: tuple[str, ...]) -> Attributes:
        """Those of its attributes, in that order."""
        return _chosen(self.found, keys)

    def failed(self, attributes: Attributes) -> Attributes:
        """`attributes`, with ``error.type`` where it failed."""
        return (*attributes, (names.ERROR_TYPE, self.error)) if self.error else attributes

    def model(self) -> Attributes:
        """The attributes of a request to a model.

        One that was refused may have been for any model there is not: then the requested one is left out, or a caller
        could make as many series as it likes.
        """
        if self.refused and names.GEN_AI_RESPONSE_MODEL not in self.found:
            return self.chosen(tuple(key for key in _MODEL if key != names.GEN_AI_REQUEST_MODEL))
        return self.chosen(_MODEL)


def _thawed(attributes: Iterable[Iterable[Any]]) -> Attributes:
    return tuple((key, value) for key, value in attributes)


def counts_requests(kind: int, keys: tuple[str, ...]) -> bool:
    """Whether spans of that kind with those attribute keys belong to a request of a model or server."""
    return kind == SERVER or (kind in (CLIENT, INTERNAL) and names.GEN_AI_OPERATION in keys)


def _chosen(found: Mapping[str, Any], keys: tuple[str, ...]) -> Attributes:
    # A record may hold anything; only what can be an attribute of a metric is one.
    chosen = ((key, found.get(key)) for key in keys)
    return tuple(
        (key, it) for key, it in chosen if isinstance(it, str) or (isinstance(it, int) and -_TOO_MUCH < it < _TOO_MUCH)
    )


def _called(found: Mapping[str, Any]) -> Attributes:
    """System and method as the stable convention for RPC names them, from spans of that one or the one before."""
    chosen = dict(_chosen(found, (names.RPC_SYSTEM, names.RPC_SYSTEM_NAME, names.RPC_SERVICE, names.RPC_METHOD)))
    system = chosen.get(names.RPC_SYSTEM_NAME, chosen.get(names.RPC_SYSTEM, ""))
    service, method = chosen.get(names.RPC_SERVICE), chosen.get(names.RPC_METHOD)
    if service and method:
        method = f"{service}/{method}"
    called = ((names.RPC_METHOD, method),) if method else ()
    return ((names.RPC_SYSTEM_NAME, system), *called)


def _rpc_status(found: Mapping[str, Any]) -> Attributes:
    status = found.get(names.RPC_RESPONSE_STATUS, found.get(names.RPC_STATUS))
    if isinstance(status, int) and 0 <= status < len(_GRPC_STATUS):
        status = _GRPC_STATUS[status]
    return ((names.RPC_RESPONSE_STATUS, status),) if isinstance(status, str) else ()


def _number(value: Any) -> float | None:
    """`value` where it is a number of seconds or things."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _TOO_MUCH
    return value if number else None
