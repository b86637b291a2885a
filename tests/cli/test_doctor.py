"""``aiobs doctor`` finds why nothing arrives."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from .conftest import Run
from .test_send_and_export import Receiver, free_port, receiver, rotel

__all__ = ["receiver", "rotel"]


def findings(done: subprocess.CompletedProcess[bytes], topic: str) -> list[dict[str, Any]]:
    return [finding for finding in json.loads(done.stdout) if finding["topic"] == topic]


def endpoint(aiobs: Run, *words: str, **how: Any) -> dict[str, Any]:
    return findings(aiobs("doctor", "--json", *words, **how), "endpoint")[0]


def test_a_healthy_place(aiobs: Run) -> None:
    done = aiobs("doctor")
    assert done.returncode == 0, done.stdout.decode()
    assert b"nothing stands in the way" in done.stdout
    assert b"PROBLEM" not in done.stdout


def test_the_right_endpoint(aiobs: Run, rotel: tuple[int, int]) -> None:
    for port, protocol in zip(rotel, ("http/protobuf", "grpc"), strict=True):
        found = endpoint(aiobs, "--endpoint", f"http://127.0.0.1:{port}", "--protocol", protocol)
        assert (found["level"], found["remedy"]) == ("ok", "")


def test_protocols_mixed_up(aiobs: Run, rotel: tuple[int, int]) -> None:
    http, grpc = rotel
    found = endpoint(aiobs, "--endpoint", f"http://127.0.0.1:{grpc}")
    assert found["level"] == "problem"
    assert "speaks gRPC, and the protocol is http/protobuf" in found["text"]
    assert (
        f"OTEL_EXPORTER_OTLP_PROTOCOL=grpc and OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{grpc}" in found["remedy"]
    )
    found = endpoint(aiobs, "--endpoint", f"http://127.0.0.1:{http}", "--protocol", "grpc")
    assert "speaks HTTP, and the protocol is grpc" in found["text"]
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in found["remedy"]


def test_a_wrong_path(aiobs: Run, rotel: tuple[int, int]) -> None:
    found = endpoint(aiobs, env={"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{rotel[0]}/v2/spans"})
    assert "there is no OTLP receiver at this path" in found["text"]
    assert "404" in found["text"]


def test_nobody_there(aiobs: Run) -> None:
    port = free_port()
    found = endpoint(aiobs, "--endpoint", f"http://127.0.0.1:{port}")
    assert found["text"] == f"nothing listens on port {port} of 127.0.0.1"
    assert "aiobs jaeger" in found["remedy"]
    assert "no host named" in endpoint(aiobs, "--endpoint", "http://no-such-host.invalid:4318")["text"]


def test_a_receiver_that_refuses_metrics(aiobs: Run, receiver: tuple[str, type[Receiver]]) -> None:
    url, seen = receiver
    seen.answers[:] = [(200, {}, b"{}"), (404, {}, b"")]
    done = aiobs("doctor", "--json", "--endpoint", url, env={"OTEL_METRICS_EXPORTER": "otlp"})
    traces, metrics = findings(done, "endpoint")[:2]
    assert traces["level"] == "ok"
    assert metrics["level"] == "problem"
    assert "OTEL_METRICS_EXPORTER" in metrics["remedy"]
    assert done.returncode == 1


def test_a_receiver_that_wants_a_password(aiobs: Run, receiver: tuple[str, type[Receiver]]) -> None:
    url, seen = receiver
    seen.answers[:] = [(401, {}, b"")]
    assert "OTEL_EXPORTER_OTLP_HEADERS" in endpoint(aiobs, "--endpoint", url)["remedy"]


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("needs openssl to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with connection, context.wrap_socket(connection, server_side=True) as secure:
                    secure.settimeout(5)
                    secure.recv(1000)
                    secure.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                continue

    thread = Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_tls_mixed_up(aiobs: Run, tls_port: int, receiver: tuple[str, type[Receiver]]) -> None:
    found = endpoint(aiobs, "--endpoint", f"http://127.0.0.1:{tls_port}")
    assert "speaks TLS, and the endpoint says http://" in found["text"]
    found = endpoint(aiobs, "--endpoint", f"https://127.0.0.1:{tls_port}")
    assert "is not trusted" in found["text"]
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in found["remedy"]
    found = endpoint(aiobs, "--endpoint", receiver[0].replace("http://", "https://"))
    assert "does not speak TLS" in found["text"]


def test_where_settings_come_from(aiobs: Run, tmp_path: Path) -> None:
    (tmp_path / "aiobs.toml").write_text('keep_every = 5\nrun_name = "file"\n')
    done = aiobs("doctor", "--json", env={"AIOBS_KEEP_FIRST": "2", "AIOBS_RUN_NAME": "env", "AIOBS_RING_BYTES": "many"})
    facts = {finding["facts"]["name"]: finding["facts"] for finding in findings(done, "settings") if finding["facts"]}
    assert (facts["keep_every"]["value"], facts["keep_every"]["source"]) == (5, "aiobs.toml")
    assert (facts["keep_first"]["value"], facts["keep_first"]["source"]) == (2, "AIOBS_KEEP_FIRST")
    assert (facts["run_name"]["value"], facts["run_name"]["source"]) == ("env", "AIOBS_RUN_NAME")
    assert done.returncode == 1
    (wrong,) = [finding for finding in findings(done, "settings") if finding["level"] == "problem"]
    assert "AIOBS_RING_BYTES='many'" in wrong["text"]


@pytest.mark.parametrize(
    ("env", "topic", "said"),
    [
        ({"AIOBS_ENABLED": "0"}, "settings", "switched off by AIOBS_ENABLED"),
        ({"OTEL_SDK_DISABLED": "true"}, "settings", "switched off by OTEL_SDK_DISABLED"),
        ({"AIOBS_PATCHES_OFF": "all"}, "patches", "all patches are switched off"),
        ({"AIOBS_AGENT": "off"}, "agent", "no agent runs"),
        ({"AIOBS_EXPORTERS": "telepathy"}, "exporters", "telepathy"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}, "endpoint", "write a URL"),
        ({"AIOBS_RUNTIME_DIR": "/proc/1/nope"}, "runtime", "cannot be made"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_stands_in_the_way(aiobs: Run, env: dict[str, str], topic: str, said: str) -> None:
    done = aiobs("doctor", "--json", env=env)
    assert done.returncode == 1
    assert any(said in finding["text"] and finding["level"] == "problem" for finding in findings(done, topic)), (
        done.stdout.decode()
    )


def test_records_left_behind_and_their_recovery(aiobs: Run, tmp_path: Path, runtime_dir: Path) -> None:
    script = tmp_path / "dies.py"
    script.write_text("import aiobs, os\naiobs.init(agent='off')\nwith aiobs.span('last words'): os._exit(1)\n")
    subprocess.run(
        [sys.executable, str(script)],
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "AIOBS_RUNTIME_DIR": str(runtime_dir)},
    )
    done = aiobs("doctor", "--json")
    assert any(
        "1 flight record of ended processes wait" in finding["text"] and finding["remedy"] == "aiobs recover"
        for finding in findings(done, "runtime")
    )
    done = aiobs("recover")
    assert (done.returncode, done.stdout) == (0, b"aiobs: 1 flight record found, 1 exported\n")
    assert b"last words" in aiobs("summary").stdout
    assert aiobs("recover").stdout == b"aiobs: 0 flight records found, 0 exported\n"


@pytest.mark.parametrize(
    ("command", "level", "said"),
    [
        ([sys.executable, "train.py"], "ok", "is recorded once it imports PyTorch"),
        ([sys.executable, "-I", "train.py"], "problem", "-I keeps Python from reading PYTHONPATH"),
        ([sys.executable, "-m", "torch.distributed.run", "t.py"], "ok", "its workers are"),
        ([sys.executable, "-m", "pip", "list"], "problem", "not recorded"),
        (["no-such-program"], "problem", "there is no such program"),
        (["true"], "note", "is no Python program"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_would_a_command_be_recorded(aiobs: Run, command: list[str], level: str, said: str) -> None:
    found = findings(aiobs("doctor", "--json", "--", *command), "command")
    assert any(finding["level"] == level and said in finding["text"] for finding in found), found


def test_a_foreign_aiobs_is_found(aiobs: Run, tmp_path: Path) -> None:
    folder = tmp_path / "site" / "aiobs-9.9.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: aiobs\nVersion: 9.9\n")
    done = aiobs("doctor", "--json", env={"PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path / 'site'}"})
    assert any("distribution aiobs 9.9 is installed" in finding["text"] for finding in findings(done, "installation"))
    assert done.returncode == 1
