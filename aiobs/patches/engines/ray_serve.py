"""The Ray Serve patches: the caller's context goes with each call of a deployment, and comes out in its replica.

Ray carries request metadata from handle to replica, but no trace context unless its own tracing is switched on. Ours
travels as a further attribute of that metadata: a replica without aiobs does not notice.
"""

from __future__ import annotations

from importlib import import_module
from types import TracebackType
from typing import Any, Final

from aiobs import names
from aiobs.guard import swallow
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.propagation import Context, inject
from aiobs.recorder import NOTHING, Span, innermost, start_span
from aiobs.serving import ServerRequest
from aiobs.serving.request import _current as _current_request
from aiobs.wrapping import Live

PLACE: Final = "patches.ray_serve"
CARRIER: Final = "aiobs_context"
"""Attribute of a request's metadata, and of a request waiting for its batch."""
SYSTEM: Final = "ray_serve"
LINKED: Final = 128
"""Requests a batch links to."""


def _here() -> Context | None:
    """Context of the innermost open span."""
    found = innermost()
    return found.context if isinstance(found, Span) else found


class RayHandlesPatch(EnginePatch):
    """Calls through handles, in drivers, proxies and replicas."""

    def place(self) -> None:
        self.put(import_module("ray.serve._private.default_impl"), "get_request_metadata", self._metadata)

    def _metadata(self, original: Any, live: Live) -> Any:
        def get_request_metadata(*args: Any, **kwargs: Any) -> Any:
            metadata = original(*args, **kwargs)
            if live and is_recorded():
                try:
                    here = _here()
                    if here is not None:
                        carrier: dict[str, str] = {}
                        inject(here, carrier)
                        setattr(metadata, CARRIER, carrier)
                except Exception as error:
                    self.remove()
                    swallow(PLACE, error)
            return metadata

        return get_request_metadata


class RayReplicasPatch(EnginePatch):
    """Requests that a replica answers: a SERVER span each, whether they came by HTTP, gRPC or handle."""

    def place(self) -> None:
        module = import_module("ray.serve._private.replica")
        self.put(getattr(module, "Replica", None) or module.ReplicaBase, "_wrap_request", self._wrap_request)

    def _wrap_request(self, original: Any, live: Live) -> Any:
        def _wrap_request(self_: Any, request_metadata: Any, *args: Any, **kwargs: Any) -> Any:
            inner = original(self_, request_metadata, *args, **kwargs)
            return _Answering(inner, self_, request_metadata) if live and is_recorded() else inner

        return _wrap_request


class _Answering:
    """Ray's own context manager around a request, and our request around that."""

    def __init__(self, inner: Any, replica: Any, metadata: Any) -> None:
        self._inner, self._replica, self._metadata = inner, replica, metadata
        self._request: ServerRequest | None = None

    def __enter__(self) -> Any:
        try:
            self._request = _begin(self._replica, self._metadata)
        except Exception as error:
            swallow(PLACE, error)
        try:
            return self._inner.__enter__()
        except BaseException as error:
            self._end(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        failure = error
        try:
            return self._inner.__exit__(kind, error, trace)
        except BaseException as raised:
            failure = raised
            raise
        finally:
            self._end(failure)

    def _end(self, error: BaseException | None) -> None:
        request, self._request = self._request, None
        if request is None:
            return
        try:
            if error is not None and not isinstance(error, Exception):
                request.disconnected()  # the caller cancelled it, or let go of the stream
            elif error is not None:
                request.fail(error)
            request.end()
        except Exception as fault:
            swallow(PLACE, fault)


def _begin(replica: Any, metadata: Any) -> ServerRequest:
    replica_id = replica._replica_id
    deployment = replica_id.deployment_id
    attributes: dict[str, Any] = {
        names.RPC_SYSTEM: SYSTEM,
        names.RPC_SERVICE: deployment.name,
        names.RPC_METHOD: metadata.call_method,
        names.RAY_APPLICATION: deployment.app_name,
        names.RAY_REPLICA: replica_id.unique_id,
    }
    if metadata.route:
        attributes[names.HTTP_ROUTE] = metadata.route
    if metadata.multiplexed_model_id:
        attributes[names.RAY_MODEL_ID] = metadata.multiplexed_model_id
    carrier: dict[str, str] = getattr(metadata, CARRIER, None) or {}
    return ServerRequest.begin(f"{deployment.name}/{metadata.call_method}", attributes, carrier.get, "")


class RayBatchesPatch(EnginePatch):
    """``@serve.batch``: a span for each batch, in the trace of its first request and linked to all others."""

    def place(self) -> None:
        queue = import_module("ray.serve.batching")._BatchQueue
        self.put(queue, "put", self._put)
        inner = "_process_batch_inner"
        self.put(queue, inner if hasattr(queue, inner) else "_process_batch", self._process)

    def _put(self, original: Any, live: Live) -> Any:
        def put(self_: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            if live and is_recorded():
                try:
                    setattr(request, CARRIER, _here())
                except Exception as error:
                    self.remove()
                    swallow(PLACE, error)
            return original(self_, request, *args, **kwargs)

        return put

    def _process(self, original: Any, live: Live) -> Any:
        async def process(self_: Any, func: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
            if not live or not is_recorded():
                return await original(self_, func, batch, *args, **kwargs)
            # The task that runs batches inherited the context of the first request there ever was.
            token = _current_request.set(None)
            try:
                with _batch_span(func, batch):
                    return await original(self_, func, batch, *args, **kwargs)
            finally:
                _current_request.reset(token)

        return process


def _batch_span(func: Any, batch: Any) -> Span:
    try:
        waiting = [getattr(request, CARRIER, None) for request in batch if not request.future.cancelled()]
        contexts = [context for context in waiting if context is not None]
        name = f"{names.SPAN_BATCH} {getattr(func, '__name__', '')}".rstrip()
        return start_span(
            name, {names.REQUEST_INPUTS: len(waiting)}, parent=contexts[0] if contexts else None,
            root=not contexts, links=contexts[1:LINKED],
        )  # fmt: skip
    except Exception as error:
        swallow(PLACE, error)
        return NOTHING
