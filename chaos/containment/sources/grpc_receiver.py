"""The receiver's other door: OTLP over gRPC, into the same recording."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiobs.chaos.containment.sources.bodies import BodyError, from_message
from aiobs.chaos.containment.sources.receiver import AT_ONCE, BODY_BYTES, address
from aiobs.chaos.containment.sources.recording import Full, Recording
from aiobs.errors import NotEnabledError, PlanError, RecordError


class GrpcReceiver:
    """Listens as long as it is not closed; a context manager.

    Args:
        listen: ``HOST:PORT``; port 0 for any that is free.
        recording: of a :class:`~aiobs.chaos.containment.sources.receiver.Receiver`, or one's own.

    Attributes:
        endpoint: for ``OTEL_EXPORTER_OTLP_ENDPOINT`` with the protocol ``grpc``.

    Raises:
        PlanError: the address cannot be listened at.
        NotEnabledError: the extra ``grpc`` is not installed.
    """

    def __init__(self, listen: str, recording: Recording) -> None:
        try:
            import grpc
        except ImportError:
            raise NotEnabledError("OTLP over gRPC", "grpc") from None
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

        self._recording, self._grpc = recording, grpc
        host, port = address(listen)
        shown = f"[{host}]" if ":" in host else host
        limit = ("grpc.max_receive_message_length", BODY_BYTES)
        self._server = grpc.server(
            ThreadPoolExecutor(AT_ONCE, "aiobs-otlp-grpc"), options=[limit, ("grpc.so_reuseport", 0)],
            maximum_concurrent_rpcs=8 * AT_ONCE,
        )  # fmt: skip
        services = (
            ("traces", "trace.v1.TraceService", traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse, "rejected_spans"),
            ("metrics", "metrics.v1.MetricsService", metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse, "rejected_data_points"),
            ("logs", "logs.v1.LogsService", logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse, "rejected_log_records"),
        )  # fmt: skip
        for signal, name, request, response, rejected in services:
            export = grpc.unary_unary_rpc_method_handler(
                self._taking(signal, response, rejected),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            service = f"opentelemetry.proto.collector.{name}"
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": export}),))
        try:
            bound = self._server.add_insecure_port(f"{shown}:{port}")
        except RuntimeError as error:
            raise PlanError("listen", listen, "an address of this machine and a free port") from error
        self._server.start()
        self.endpoint = f"http://{shown}:{bound}"

    def _taking(self, signal: str, response: Any, rejected: str) -> Any:
        code = self._grpc.StatusCode

        def take(request: Any, context: Any) -> Any:
            try:
                body = from_message(signal, request)
                self._recording.take(signal, body)
            except BodyError as error:
                context.abort(code.INVALID_ARGUMENT, str(error))
            except Full:
                context.abort(code.UNAVAILABLE, "too fast")
            except RecordError as error:
                context.abort(code.UNAVAILABLE, str(error))
            answer = response()
            if body.rejected:
                setattr(answer.partial_success, rejected, body.rejected)
                answer.partial_success.error_message = body.why
            return answer

        return take

    def close(self) -> None:
        """Stop listening."""
        self._server.stop(1.0).wait()

    def __enter__(self) -> GrpcReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
