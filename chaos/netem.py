"""netem, the kernel's network emulator, where there is one: faults of single packets."""

from __future__ import annotations

import functools
import os
import subprocess

from .namespaces import missing_tools


@functools.cache
def has_netem() -> bool:
    """Whether this kernel has it, tried in a network namespace that goes with the trial."""
    own = ["--user", "--map-root-user"] if os.geteuid() != 0 else []
    command = ["unshare", *own, "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def missing_netem() -> list[str]:
    """What lacks for it, one sentence each."""
    lacking = missing_tools("tc", "nsenter")
    if not lacking and not has_netem():
        lacking.append(
            "this kernel has no netem (CONFIG_NET_SCH_NETEM; as a module:  modprobe sch_netem): use network.loss, "
            "network.bandwidth, or network.latency with a port"
        )
    return lacking


def delay(delay_s: float, jitter_s: float, distribution: str) -> str:
    """The words of tc for a delay; "" for none."""
    if not delay_s and not jitter_s:
        return ""
    shape = f" {jitter_s * 1e3:g}ms" if jitter_s else ""
    if jitter_s and distribution != "uniform":  # which is what netem does unasked
        shape += f" distribution {distribution}"
    return f"delay {delay_s * 1e3:g}ms{shape}"
