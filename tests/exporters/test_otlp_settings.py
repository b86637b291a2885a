"""The standard variables, and what is said of ones that cannot be used."""

from __future__ import annotations

import pytest

from aiobs.errors import SettingError
from aiobs.exporters.otlp_settings import targets

PREFIX = "OTEL_EXPORTER_OTLP_"


def url(signal: str = "traces", **variables: str) -> str:
    environment = {PREFIX + name: value for name, value in variables.items()}
    environment |= {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "otlp"}
    return targets(environment)[signal].url.geturl()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "http://localhost:4318/v1/traces"),
        ({"ENDPOINT": "http://h:1"}, "http://h:1/v1/traces"),
        ({"ENDPOINT": "http://h:1/"}, "http://h:1/v1/traces"),
        ({"ENDPOINT": "http://h:1/base/"}, "http://h:1/base/v1/traces"),
        ({"ENDPOINT": "https://h?key=1"}, "https://h/v1/traces?key=1"),
        ({"TRACES_ENDPOINT": "http://h:1/own"}, "http://h:1/own"),
        ({"TRACES_ENDPOINT": "http://h:1", "ENDPOINT": "http://x"}, "http://h:1"),
        ({"ENDPOINT": "http://[::1]:4318"}, "http://[::1]:4318/v1/traces"),
        ({"ENDPOINT": " http://h:1 "}, "http://h:1/v1/traces"),
        ({"PROTOCOL": "grpc"}, "http://localhost:4317"),
        ({"PROTOCOL": "grpc", "ENDPOINT": "h:1"}, "https://h:1"),
        ({"PROTOCOL": "grpc", "ENDPOINT": "h:1", "INSECURE": "true"}, "http://h:1"),
        ({"ENDPOINT": "http://user:secret@h:1"}, "http://h:1/v1/traces"),
    ],
)
def test_endpoints(variables: dict[str, str], expected: str) -> None:
    assert url(**variables) == expected


def test_a_variable_of_the_signal_beats_the_general_one() -> None:
    found = targets(
        {
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "b=2,C=%2C",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
            "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "0.5",
            "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/json",
        }
    )
    assert dict(found["traces"].headers) == {"a": "1"}
    assert dict(found["logs"].headers) == {"b": "2", "c": ","}
    assert (found["traces"].timeout_s, found["logs"].timeout_s) == (3, 0.5)
    assert (found["traces"].gzip, found["logs"].gzip) == (False, True)
    assert (found["traces"].protocol, found["logs"].protocol) == ("http/protobuf", "http/json")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("ENDPOINT", "localhost:4318", "http://localhost:4318"),
        ("ENDPOINT", "ftp://h", "http://localhost:4318"),
        ("ENDPOINT", "http://h:port", "http://localhost:4318"),
        ("ENDPOINT", "http://[::1", "http://localhost:4318"),
        ("TRACES_ENDPOINT", "http://", "http://localhost:4318"),
        ("ENDPOINT", "http://h\r\nx:1", "http://localhost:4318"),
        ("PROTOCOL", "thrift", "http/protobuf"),
        ("COMPRESSION", "zstd", "gzip or none"),
        ("TIMEOUT", "10s", "seconds"),
        ("TIMEOUT", "-1", "seconds"),
        ("TIMEOUT", "nan", "seconds"),
        ("CERTIFICATE", "/nowhere/ca.pem", "no such file"),
        ("HEADERS", "just-a-name", "name=value"),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(name: str, value: str, remedy: str) -> None:
    with pytest.raises(SettingError) as caught:
        targets({PREFIX + name: value})
    assert caught.value.field == PREFIX + name
    assert remedy in str(caught.value)


def test_no_secret_is_named() -> None:
    for name, value in (
        ("HEADERS", "x=hunter2%0d%0aevil: 1"),
        ("HEADERS", "hunter2"),
        ("HEADERS", "x=hunter2é"),
        ("ENDPOINT", "ftp://user:hunter2@h"),
    ):
        with pytest.raises(SettingError) as caught:
            targets({PREFIX + name: value})
        assert "hunter2" not in str(caught.value)
