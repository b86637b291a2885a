"""What a streamed chunk, a message and a whole request cost in addition: openai client, WSGI and gRPC servers.

Sides: nothing, aiobs recording as after ``aiobs.init()``, and OpenTelemetry's package for the same part
(opentelemetry-instrumentation-openai-v2, -wsgi, -grpc) under its SDK with an exporter that throws everything away.
The other end is a stand-in in the same process, so that nothing but the library's and the watcher's own work is
timed. Each side runs in a process of its own, one after the other in each round; the figures are medians of the
differences to nothing, in µs of the thread's CPU time.
Run: python tests/bench/bench_clients.py [--quick] [--json]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from side import median, options, table

WORKER = """
import json, logging, sys, time
side, chunks, calls, repeats = sys.argv[1], *map(int, sys.argv[2:])
logging.disable(logging.CRITICAL)
if side == "aiobs":
    import aiobs
    aiobs.init(service_name="bench", patches_off=("httpx", "requests", "aiohttp_client"))
elif side == "otel":
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    class Discard(SpanExporter):
        def export(self, spans):
            return SpanExportResult.SUCCESS
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    trace.set_tracer_provider(provider)

results = {}
clock = time.thread_time
def measure(part, stream, call):
    stream(chunks); [call() for _ in range(20)]
    for _ in range(repeats):
        start = clock(); stream(chunks); middle = clock()
        stream(1); one = clock() - middle
        results.setdefault(part + " chunk", []).append((middle - start - one) / (chunks - 1) * 1e6)
        start = clock()
        for _ in range(calls):
            call()
        results.setdefault(part + " request", []).append((clock() - start) / calls * 1e6)

def openai_client():
    import openai
    try:
        import httpx2 as http
    except ImportError:
        import httpx as http
    if side == "otel":
        import wrapt
        placed = wrapt.wrap_function_wrapper
        # Releases of the package name a parameter that wrapt 2 calls otherwise.
        wrapt.wrap_function_wrapper = lambda module, name, wrapper: placed(module, name, wrapper)
        from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
        OpenAIInstrumentor().instrument()
    from openai.types.chat import ChatCompletionChunk
    chunk = ChatCompletionChunk.model_validate({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, "finish_reason": None, "delta": {"content": " word"}}]})
    whole = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode()
    def answer(request):
        asked = json.loads(request.content)
        if not asked.get("stream"):
            return http.Response(200, content=whole, headers={"content-type": "application/json"})
        lines = ["data: 1\\n\\n"] * asked["max_tokens"]
        return http.Response(200, content="".join(lines) + "data: [DONE]\\n\\n", headers={"content-type": "text/event-stream"})
    client = openai.OpenAI(api_key="x", base_url="http://localhost/v1", http_client=http.Client(transport=http.MockTransport(answer)))
    made = client._process_response_data
    # A chunk costs the client 100 µs to make, among which a microsecond is not to be found.
    client._process_response_data = lambda *, cast_to, **rest: chunk if cast_to is ChatCompletionChunk else made(cast_to=cast_to, **rest)
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    def stream(count):
        for _ in client.chat.completions.create(stream=True, max_tokens=count, **ask):
            pass
    measure("openai", stream, lambda: client.chat.completions.create(**ask))

def wsgi_server():
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (b"word" for _ in range(environ["count"]))
    if side == "aiobs":
        from aiobs.serving.wsgi import observed
        app = observed(app, [True])
    elif side == "otel":
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
        app = OpenTelemetryMiddleware(app)
    import wsgiref.util
    def stream(count):
        environ = {"count": count, "REMOTE_ADDR": "127.0.0.1", "HTTP_USER_AGENT": "bench", "REQUEST_METHOD": "GET", "PATH_INFO": "/x"}
        wsgiref.util.setup_testing_defaults(environ)
        answer = app(environ, lambda status, headers, exc_info=None: None)
        for _ in answer:
            pass
        getattr(answer, "close", bool)()
    measure("wsgi", stream, lambda: stream(1))

def grpc_server():
    import grpc
    class Context(grpc.ServicerContext):
        is_active = lambda self: True
        time_remaining = lambda self: float("inf")
        add_callback = lambda self, callback: True
        invocation_metadata = lambda self: ()
        peer = lambda self: "ipv4:127.0.0.1:5000"
        code = details = trailing_metadata = lambda self: None
        def other(self, *args): pass
        cancel = peer_identities = peer_identity_key = auth_context = send_initial_metadata = other
        set_trailing_metadata = abort = abort_with_status = set_code = set_details = other
    def words(request, context):
        for _ in range(request):
            yield b"word"
    class Details:
        method, invocation_metadata = "/bench.Words/Stream", ()
    if side == "aiobs":
        from aiobs.patches.grpc.sync import ServerInterceptor
        interceptor = ServerInterceptor([True])
    elif side == "otel":
        from opentelemetry.instrumentation.grpc import server_interceptor
        interceptor = server_interceptor()
    method = grpc.unary_stream_rpc_method_handler(words)
    def stream(count):
        found = method if side == "nothing" else interceptor.intercept_service(lambda details: method, Details)
        for _ in found.unary_stream(count, Context()):
            pass
    measure("grpc", stream, lambda: stream(1))

for part in (openai_client, wsgi_server, grpc_server):
    try:
        part()
    except ImportError as error:
        print(part.__name__, error, file=sys.stderr)
print(json.dumps(results))
"""
SIDES = ("nothing", "aiobs", "otel")
TITLES = {
    "openai chunk": "openai client, chunk of a stream",
    "openai request": "openai client, request",
    "wsgi chunk": "WSGI server, chunk of an answer",
    "wsgi request": "WSGI server, request",
    "grpc chunk": "gRPC server, message of a stream",
    "grpc request": "gRPC server, call",
}


def run(side: str, chunks: int, calls: int, repeats: int) -> dict[str, float]:
    """Median µs of each part on one side."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "AIOBS_RUNTIME_DIR": f"{folder}/aiobs", "AIOBS_AGENT": "off"}
        command = [sys.executable, "-W", "ignore", "-c", WORKER, side, str(chunks), str(calls), str(repeats)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=folder)
    found: dict[str, list[float]] = json.loads(ran.stdout.splitlines()[-1])
    return {part: median(values) for part, values in found.items()}


def main() -> None:
    given = options(__doc__).parse_args()
    rounds, sizes = (1, (100, 20, 2)) if given.quick else (5, (1600, 200, 5))
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        sides = {side: run(side, *sizes) for side in SIDES}
        for part, base in sides["nothing"].items():
            rows = found.setdefault(part, {"nothing": [], "aiobs": [], "otel": []})
            rows["nothing"].append(base)
            for side in SIDES[1:]:
                if part in sides[side]:
                    rows[side].append(sides[side][part] - base)
    figures = {
        part: {
            "without_us": median(rows["nothing"]),
            **{f"{side}_adds_us": median(rows[side]) for side in SIDES[1:] if rows[side]},
        }
        for part, rows in found.items()
    }
    if given.json:
        print(json.dumps(figures))
        return
    lines = [
        [TITLES[part], row["without_us"], row.get("aiobs_adds_us", "-"), row.get("otel_adds_us", "-")]
        for part, row in figures.items()
    ]
    print(table("Added by watching, µs", ["", "without", "aiobs adds", "OpenTelemetry adds"], lines))


if __name__ == "__main__":
    main()
