"""All settings: one row each, one loader. Argument beats environment beats file beats default.

The file is ``aiobs.toml`` in the working directory or the one ``AIOBS_CONFIG`` names, a flat table of the
names below. A value that cannot be used is never half-used: in a program that asked (`aiobs.init(...)`, the
command line) it raises :class:`~aiobs.errors.SettingError`, in one that did not it is said once and the
default stands.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from dataclasses import field as _field
from pathlib import Path
from typing import Any

from aiobs.errors import SettingError

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off", ""})


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise ValueError("use 1 or 0")


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _count(minimum: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise ValueError(f"use a whole number, at least {minimum}")
        return number

    return parse


def _bytes(value: str) -> int:
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(value[-1:].lower(), 1)
    digits = value[:-1] if factor > 1 else value
    if not digits.isdigit():
        raise ValueError("use bytes, or a number with k, m or g")
    return int(digits) * factor


def _number(minimum: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not number >= minimum:
            raise ValueError(f"use a number, at least {minimum:g}")
        return number

    return parse


def _choice(*options: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in options:
            raise ValueError("use one of " + ", ".join(options))
        return value

    return parse


def _web_address(value: str) -> str:
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("use an address that begins with http:// or https://")
    return value


def _row(env: str, parse: Callable[[str], Any], default: Any, doc: str) -> Any:
    return _field(default=default, metadata={"env": env, "parse": parse, "doc": doc})


@dataclass(frozen=True)
class Settings:
    """One value for each setting; `docs/settings.md` is made from these rows."""

    enabled: bool = _row("AIOBS_ENABLED", _flag, True, "0 switches everything off. `OTEL_SDK_DISABLED=true` too.")
    runtime_dir: str = _row(
        "AIOBS_RUNTIME_DIR",
        _text,
        "",
        "Private folder for flight records, spool and agent; else `$XDG_RUNTIME_DIR/aiobs`, else a folder per user under the temporary directory.",
    )
    agent: str = _row(
        "AIOBS_AGENT",
        _choice("process", "thread", "off"),
        "process",
        "`process`: a separate agent, started on demand. `thread`: the same loop in a thread of this process. `off`: only record; some other agent (a sidecar, `aiobs recover`) drains.",
    )
    agent_linger_s: float = _row(
        "AIOBS_AGENT_LINGER", _number(0), 3.0, "Seconds an agent stays after the last flight record is done."
    )
    exporters: tuple[str, ...] = _row(
        "AIOBS_EXPORTERS",
        _names,
        (),
        "Comma-separated exporters: jsonl, otlp, console, prometheus, perfetto. Default: otlp where an `OTEL_EXPORTER_OTLP_*ENDPOINT` is set, else jsonl; `aiobs run` always adds jsonl.",
    )
    run_id: str = _row(
        "AIOBS_RUN_ID",
        _text,
        "",
        "Identity of the run, equal on all its ranks. `aiobs run` makes one; else the torchrun or Slurm job id; else random.",
    )
    run_name: str = _row("AIOBS_RUN_NAME", _text, "", "Name of the run, for people. Default: the script's name.")
    run_dir: str = _row(
        "AIOBS_RUN_DIR", _text, "", "The run folder. Default: `aiobs-runs/<time>-<name>` in the working directory."
    )
    service_name: str = _row(
        "OTEL_SERVICE_NAME",
        _text,
        "",
        "`service.name`: the role (`trainer`, `llm-server`), never the rank. Default: `trainer` once a training step is seen, else the script's name.",
    )
    ring_bytes: int = _row("AIOBS_RING_BYTES", _bytes, 6 << 20, "Size of a flight record's ring.")
    spool_bytes: int = _row(
        "AIOBS_SPOOL_BYTES",
        _bytes,
        256 << 20,
        "Most the agent keeps on disk while an endpoint is unreachable; beyond it the oldest go, counted.",
    )
    keep_first: int = _row("AIOBS_KEEP_FIRST", _count(0), 10, "Keep the traces of the first so many steps.")
    keep_every: int = _row(
        "AIOBS_KEEP_EVERY",
        _count(0),
        10,
        "Keep every so many-th step's trace; 0: none by this rule. Metrics see every step.",
    )
    keep_slow_ratio: float = _row(
        "AIOBS_KEEP_SLOW_RATIO", _number(1), 1.5, "Keep a step slower than so many times the running median."
    )
    value_limit: int = _row(
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        _count(1),
        4096,
        "Longest string attribute, in characters; longer ones are cut and counted.",
    )
    patches_off: tuple[str, ...] = _row(
        "AIOBS_PATCHES_OFF",
        _names,
        (),
        "Comma-separated patches not to install (`torch`, `lightning`, `opentelemetry`, ...), or `all`.",
    )
    started_after_s: float = _row(
        "AIOBS_STARTED_AFTER", _number(0), 2.0, "A span open for so many seconds is announced by a `(started)` child."
    )
    join_limit: int = _row(
        "AIOBS_JOIN_LIMIT",
        _count(0),
        500,
        "Top-level spans of a process that join the run's trace; later ones begin traces of their own, found by the resource attribute `aiobs.run.trace_id`.",
    )
    console_file: str = _row(
        "AIOBS_CONSOLE_FILE", _text, "", "File the `console` exporter appends to. Default: standard error of the agent."
    )
    serving_callers: str = _row(
        "AIOBS_SERVING_CALLERS",
        _choice("auto", "trust", "link", "ignore"),
        "auto",
        "What a server makes of a caller's `traceparent`. `trust`: continue its trace. `link`: a trace of its own, linked to the caller's. `ignore`: a trace of its own. `auto`: continue where the caller's address is loopback, unix or private and no forwarding header names a public one, else link.",
    )
    serving_content: bool = _row(
        "AIOBS_SERVING_CONTENT",
        _flag,
        False,
        "1: record prompts and completions of inference requests, cut and redacted.",
    )
    serving_content_limit: int = _row(
        "AIOBS_SERVING_CONTENT_LIMIT",
        _count(1),
        1024,
        "Most characters of a prompt and of a completion that are recorded.",
    )
    serving_stall_s: float = _row(
        "AIOBS_SERVING_STALL",
        _number(0.001),
        0.25,
        "Seconds between two chunks of a streamed answer from which on a gap can be a stall; it must also be four times the answer's mean gap.",
    )
    propagate_to: tuple[str, ...] = _row(
        "AIOBS_PROPAGATE_TO",
        _names,
        ("private",),
        "Hosts that outgoing requests may carry the trace's context to: `all`, `none`, or a comma-separated list of host patterns (`*.example.com`) and `private`, which stands for loopback and private addresses, names without a dot and names of local domains.",
    )
    device_time: str = _row(
        "AIOBS_DEVICE_TIME",
        _choice("auto", "off"),
        "auto",
        "`auto`: where PyTorch uses CUDA, how long each phase of a training step took on the GPU, by events in its stream. `off`: none of it.",
    )
    memory_history: int = _row(
        "AIOBS_MEMORY_HISTORY",
        _count(0),
        0,
        "Allocations of GPU memory that PyTorch is to remember with their stack traces, some KB each; written to a file when memory runs out. 0: none.",
    )
    devices: str = _row(
        "AIOBS_DEVICES",
        _choice("auto", "off"),
        "auto",
        "`auto`: where this host has GPUs, the agent samples them and tells what they did for each span. `off`: it leaves them alone.",
    )
    device_period_s: float = _row(
        "AIOBS_DEVICE_PERIOD",
        _number(0.05),
        1.0,
        "Seconds between two readings of each GPU; what changes slowly is read a tenth as often.",
    )
    host_period_s: float = _row(
        "AIOBS_HOST_PERIOD", _number(1), 10.0, "Seconds between two readings of the host and of each recorded process."
    )
    prometheus_address: str = _row(
        "AIOBS_PROMETHEUS_ADDRESS", _text, "127.0.0.1:9464", "Where the `prometheus` exporter listens."
    )
    jaeger_url: str = _row(
        "AIOBS_JAEGER_URL",
        _web_address,
        "",
        "Address of a Jaeger that has the traces too, such as `http://localhost:16686`: reports link to it.",
    )
    chaos: str = _row(
        "AIOBS_CHAOS", _choice("", "armed"), "", "`armed` allows faults to be injected; without it nothing is touched."
    )
    points: str = _row(
        "AIOBS_POINTS",
        _choice("", "functions"),
        "",
        "`functions`: a thread of the process looks 20 times a second whether functions are to be armed, so that any dotted function can be a point. Without it functions are armed when the process next reaches an `aiobs.point`.",
    )
    environment: str = _row(
        "AIOBS_ENVIRONMENT",
        _text,
        "",
        "Which environment this is: faults are injected only in `development`, `test`, `ci`, `staging` or `sandbox`. Default: `deployment.environment.name` of `OTEL_RESOURCE_ATTRIBUTES`.",
    )
    chaos_dir: str = _row(
        "AIOBS_CHAOS_DIR",
        _text,
        "",
        "Private folder of undo journals, locks and the audit trail; it must outlive a reboot. Default: `/var/lib/aiobs/chaos` for root, else `$XDG_STATE_HOME/aiobs/chaos` or `~/.local/state/aiobs/chaos`.",
    )
    chaos_max_s: float = _row(
        "AIOBS_CHAOS_MAX_DURATION",
        _number(0),
        3600.0,
        "Longest a fault may be held, in seconds; longer plans are refused.",
    )
    chaos_protect: tuple[str, ...] = _row(
        "AIOBS_CHAOS_PROTECT",
        _names,
        (),
        "Comma-separated names of processes that no fault may hit, besides init, kernel threads, sshd, container runtimes, the agent, and whoever injects.",
    )


ROWS = fields(Settings)


def load_settings(
    arguments: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    complain: Callable[[SettingError], None] | None = None,
) -> Settings:
    """Read every setting.

    Args:
        arguments: values given in code, by setting name; None values count as not given.
        environment: the environment, ``os.environ`` by default.
        complain: called for each value that cannot be used, which then counts as not given. Without it the
            first one raises.

    Raises:
        SettingError: a value cannot be used, or a name in `arguments` or the file is not a setting.
    """
    env = os.environ if environment is None else environment

    def report(error: SettingError) -> None:
        if complain is None:
            raise error
        complain(error)

    def known(values: Mapping[str, Any], source: str) -> dict[str, Any]:
        names = {row.name for row in ROWS}
        for name in values:
            if name not in names:
                report(
                    SettingError(
                        f"{source}{name}", values[name], f"no such setting; there are {', '.join(sorted(names))}"
                    )
                )
        return {name: value for name, value in values.items() if name in names and value is not None}

    try:
        from_file = known(_load_file(env), "aiobs.toml: ")
    except SettingError as error:
        report(error)
        from_file = {}
    from_code = known(arguments or {}, "")
    chosen: dict[str, Any] = {}
    for row in ROWS:
        label = row.metadata["env"]
        for given, shown in (
            (from_code.get(row.name), row.name),
            (env.get(label), label),
            (from_file.get(row.name), f"aiobs.toml: {row.name}"),
        ):
            if given is None:
                continue
            text = ",".join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)
            try:
                chosen[row.name] = row.metadata["parse"](text)
            except ValueError as error:
                report(SettingError(shown, given, str(error)))
                continue
            break
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        chosen["enabled"] = False
    return Settings(**chosen)


def _load_file(env: Mapping[str, str]) -> dict[str, Any]:
    named = env.get("AIOBS_CONFIG")
    path = Path(named or "aiobs.toml")
    if not named and not path.is_file():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]
        except ModuleNotFoundError:
            raise SettingError(
                "AIOBS_CONFIG", str(path), "reading it on Python 3.10 needs  pip install tomli"
            ) from None
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError("AIOBS_CONFIG", str(path), f"cannot be read: {error}") from error
    return found
