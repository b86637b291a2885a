"""What runs on which machine of the demo: the service, the load on it, and the training job."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aiobs import names
from aiobs.chaos.demo.keeper import Part
from aiobs.chaos.demo.places import examples

FRONT = "front"
"""The machine with the router, the load and the store where ranks meet: no fault of the demo is aimed at it."""
PACE_MS, STEP_MS = 20, 100
"""Least duration of an engine's step and of a training step: the same schedule on a slow machine and on a fast one."""
AGAIN_S, TOGETHER_S = 2.0, 4.0
"""What has died is started again so much later; without bulkheads all die together, and are started again together."""
LOAD_S, STEPS = 1200, 1_000_000
"""More than any scene takes: load and training end with it."""
_STORE, _REGISTRY = 9, 8
"""The ports of the store and of the replicas' registry, counted from the router's."""
ENGINE = f"--pace {PACE_MS} --max-batch 6 --poison BOOM"
WALLS = "--per-replica 12 --per-tenant 6 --waiting 24 --answer-s 4"
GIVEN_UP_S = 8
"""Seconds after which a caller gives a request up."""


@dataclass(frozen=True)
class Setup:
    """What a scene consists of.

    Attributes:
        folder: for what the scene needs beside the telemetry.
        rate: requests a second.
        nodes: whether each machine is a node of a testbed.
        port: of the router; those behind it are the replicas'.
    """

    folder: str
    replicas: int
    ranks: int
    rate: float
    bulkheads: bool
    nodes: bool
    training: bool
    tenants: tuple[str, ...]
    seed: int
    port: int

    @property
    def machines(self) -> list[str]:
        """Names of the machines that faults are aimed at."""
        return [f"node-{index}" for index in range(max(self.replicas, self.ranks if self.training else 0))]

    def write(self, path: Path) -> None:
        """Put it on disk."""
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Setup:
        """What :meth:`write` wrote."""
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        values["tenants"] = tuple(values["tenants"])
        return cls(**values)


class Cast:
    """The parts, given the address of each machine; `interface`: what the ranks talk over."""

    def __init__(self, setup: Setup, addresses: Mapping[str, str], interface: str) -> None:
        self._setup, self._addresses, self._interface = setup, addresses, interface
        self._folder = examples()

    @property
    def url(self) -> str:
        """Of the router."""
        return f"http://{self._addresses[FRONT]}:{self._setup.port}"

    def front(self) -> list[Part]:
        """What runs on the machine in front."""
        setup, host = self._setup, self._addresses[FRONT]
        replicas = [f"http://{self._addresses[f'node-{at}']}:{self._port(at)}" for at in range(setup.replicas)]
        named = " ".join([f"replica-{at}={url}" for at, url in enumerate(replicas)])
        walls = WALLS if setup.bulkheads else "--no-bulkheads"
        words = f"router --host {host} --port {setup.port} --registry {self._registry} {walls} {named}"
        registry = f"registry --host {host} --port {setup.port + _REGISTRY}"
        found = [
            self._part("router", FRONT, "llm-router", "serve_llm.py", words, fate="server"),
            self._part("registry", FRONT, "llm-registry", "serve_llm.py", registry, fate="server"),
        ]
        if setup.training:
            found.append(
                self._part("store", FRONT, "trainer-store", "train_together.py", f"store --store {self._store}")
            )
        if setup.rate:
            words = f"--url {self.url} --rate {setup.rate} --requests {round(setup.rate * LOAD_S)} --seed {setup.seed}"
            words += f" --limit {GIVEN_UP_S} --prompt 20 60 --tokens 3 5" + "".join(
                f" --tenant {tenant}" for tenant in setup.tenants
            )
            load = self._part("load", FRONT, "llm-load", "llm/load.py", words)
            asked = [f"{url}/health" for url in (*replicas, self.url)]
            wait = [sys.executable, str(Path(__file__).with_name("when_ready.py")), *asked, "--"]
            found.append(replace(load, argv=[*wait, *load.argv]))
        return found

    def machine(self, index: int) -> list[Part]:
        """What runs on the machine of that number."""
        setup, found, name = self._setup, [], f"node-{index}"
        if index < setup.replicas:
            words = f"replica --host {self._addresses[name]} --port {self._port(index)} {ENGINE}"
            words += f" --registry {self._registry} --name replica-{index}"
            replica = {names.REPLICA: f"replica-{index}"}
            found.append(
                self._part(f"replica-{index}", name, "llm-server", "serve_llm.py", words, replica, fate="server")
            )
        if setup.training and index < setup.ranks:
            words = f"rank --store {self._store} --ranks {setup.ranks} --pace {STEP_MS} --steps {STEPS}"
            words += f" --seed {setup.seed} --checkpoints checkpoints" + ("" if setup.bulkheads else " --no-bulkhead")
            found.append(
                self._part(f"rank-{index}", name, "trainer", "train_together.py", words, rank=index, fate="job")
            )
        return found

    @property
    def _registry(self) -> str:
        return f"http://{self._addresses[FRONT]}:{self._setup.port + _REGISTRY}"

    @property
    def _store(self) -> str:
        return f"{self._addresses[FRONT]}:{self._setup.port + _STORE}"

    def _port(self, index: int) -> int:
        return self._setup.port + 1 + index

    def _part(
        self, name: str, machine: str, service: str, script: str, words: str, attributes: Mapping[str, str] | None = None,
        *, rank: int | None = None, fate: str = "",
    ) -> Part:  # fmt: skip
        told = {names.HOST_NAME: machine, names.SERVICE_INSTANCE_ID: name, **(attributes or {})}
        env = {
            "OTEL_SERVICE_NAME": service,
            "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{key}={value}" for key, value in told.items()),
        }
        if rank is not None:
            env |= {"RANK": str(rank), "WORLD_SIZE": str(self._setup.ranks), "GLOO_SOCKET_IFNAME": self._interface}
            env |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # it warns of addresses without a name
        argv = [sys.executable, str(self._folder / script), *words.split()]
        alone = self._setup.bulkheads
        return Part(name, argv, env, fate="" if alone else fate, again_s=AGAIN_S if alone or not fate else TOGETHER_S)
