"""A small network learns handwritten digits on several ranks that outlive each other.

    aiobs run -- python examples/train_together.py --ranks 3 --steps 600

Gradients are averaged over gloo, as in any data-parallel job. What is special is the bulkhead around a lost rank: a
collective waits for two seconds at most, then those who are left meet again at the store, agree on who is there, take
over the weights of whoever is furthest, and go on. A rank that comes back is let in at the next step.
With `--checkpoints` the first of them saves the weights now and then; a full disk costs the checkpoint, not the job.
`--no-bulkhead` is the ordinary job: collectives wait half an hour, the first lost rank takes all others with it, and so
does the first checkpoint that fails.

The store, where ranks meet, and each rank can also be run by themselves, wherever they shall be:
`train_together.py store --help`, `train_together.py rank --help`. Ctrl-C or SIGTERM ends everything.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

PATIENCE_S, SETTLE_S = 2.0, 0.5
"""How long a collective waits for a rank; how long those who meet wait for others before they go on without them."""
ENDLESS_S = 1800.0
"""The same without a bulkhead: as long as gloo waits by itself."""
BATCH = 32
SAVED_EVERY = 5


class Job:
    """The ranks that work together now: a process group which is made anew whenever one is lost or comes back.

    At the store there is a table for each generation. Whoever comes sits down at the newest table that is still open,
    or opens the next; when all are there, or nobody came for a moment, the table is sealed and works as one group.
    """

    def __init__(self, rank: int, world: int, address: tuple[str, int], patience_s: float, settle_s: float) -> None:
        self.rank, self.world, self._address = rank, world, address
        self._patience, self._settle_s = timedelta(seconds=patience_s), settle_s
        self.generation = -1
        self.members: list[int] = []

    def meet(self) -> None:
        """Sit down with whoever is there. Everybody who is left gets the same group."""
        self.leave()
        store = dist.TCPStore(*self._address, timeout=timedelta(seconds=10), wait_for_workers=False)
        while True:
            newest = int(store.add("generation", 0))
            if newest <= self.generation or store.check([f"{newest}/sealed"]):
                store.compare_set("generation", str(newest), str(newest + 1))
                newest = int(store.add("generation", 0))
            self.generation = newest
            self.members = self._seated(store)
            if self.rank in self.members:
                break  # else the table was sealed while we sat down: open the next one
        self._store = store
        dist.init_process_group(
            "gloo", store=dist.PrefixStore(f"{self.generation}/group", store), timeout=self._patience,
            rank=self.members.index(self.rank), world_size=len(self.members),
        )  # fmt: skip

    def _seated(self, store: dist.TCPStore) -> list[int]:
        table, until = self.generation, time.monotonic() + self._settle_s
        store.set(f"{table}/here/{self.rank}", "")
        while True:
            here = [rank for rank in range(self.world) if store.check([f"{table}/here/{rank}"])]
            if len(here) == self.world or time.monotonic() > until or store.check([f"{table}/sealed"]):
                sealed = store.compare_set(f"{table}/sealed", "", ",".join(map(str, here)))
                return [int(rank) for rank in sealed.decode().split(",")]
            time.sleep(0.02)

    def leave(self) -> None:
        """Be in no group."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def wanted(self) -> bool:
        """Whether somebody waits at a newer table. A store that is gone stops nobody who works."""
        try:
            return int(self._store.add("generation", 0)) > self.generation
        except RuntimeError:
            return False


class Learner:
    """Model, data, and one step of learning."""

    def __init__(self, seed: int) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.images = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16
        self.labels = torch.tensor(digits.target)
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.2)
        self.seed, self.step = seed, 0

    def take_over(self) -> None:
        """Everybody takes the weights of the member who is furthest."""
        steps = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
        dist.all_gather(steps, torch.tensor([self.step]))
        source = max(range(len(steps)), key=lambda index: (int(steps[index]), -index))
        for parameter in self.model.parameters():
            dist.broadcast(parameter.data, source)
        self.step = int(steps[source])

    def learn(self, wanted: bool) -> tuple[float, bool]:
        """One step over all members' batches; returns the loss, and whether a member says that somebody is `wanted`."""
        members, place = dist.get_world_size(), dist.get_rank()
        shuffled = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(self.seed + self.step))
        mine = shuffled[place * BATCH : (place + 1) * BATCH]
        loss: Any = nn.functional.cross_entropy(self.model(self.images[mine]), self.labels[mine])
        self.optimizer.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        told = torch.cat([*[it.flatten() for it in gradients], loss.detach().view(1), torch.tensor([float(wanted)])])
        dist.all_reduce(told)  # the last two ride along: all learn the same, and leave the group at the same step
        for gradient, part in zip(gradients, torch.split(told[:-2], [it.numel() for it in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient) / members)
        self.optimizer.step()
        self.step += 1
        return float(told[-2]) / members, bool(told[-1])

    def save(self, folder: str) -> None:
        """Write the weights beside the last ones, then put them in their place. Raises OSError, RuntimeError."""
        path = Path(folder)
        path.mkdir(exist_ok=True)
        fresh = path / "weights.new"
        try:
            torch.save(self.model.state_dict(), fresh)
            fresh.replace(path / "weights.pt")
        finally:
            fresh.unlink(missing_ok=True)

    def accuracy(self) -> float:
        """Share of all digits that are told right."""
        with torch.no_grad():
            return float((self.model(self.images).argmax(1) == self.labels).float().mean())


def run_rank(chosen: argparse.Namespace) -> int:
    """Be one rank."""
    torch.set_num_threads(1)
    host, port = _address(chosen)
    waits = (PATIENCE_S, SETTLE_S) if chosen.bulkhead else (ENDLESS_S, ENDLESS_S)
    job = Job(chosen.rank, chosen.ranks, (host, port), *waits)
    learner = Learner(chosen.seed)
    _arrive(job, learner, chosen)
    due = time.monotonic()
    while learner.step < chosen.steps:
        due = max(due + chosen.pace / 1e3, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            loss, wanted = learner.learn(chosen.bulkhead and job.wanted())
        except RuntimeError as error:  # what gloo raises where a peer is gone or silent
            if not chosen.bulkhead:
                raise
            _say(job, f"lost a peer at step {learner.step}: {str(error).splitlines()[0][:100]}")
            wanted = True
        if wanted:
            _arrive(job, learner, chosen)
            continue
        if chosen.checkpoints and learner.step % SAVED_EVERY == 0 and job.rank == job.members[0]:
            _save(job, learner, chosen)
        if learner.step % 100 == 0 and job.rank == job.members[0]:
            _say(job, f"step {learner.step}, loss {loss:.4f}, accuracy {learner.accuracy():.3f}")
    job.leave()
    return 0


def _save(job: Job, learner: Learner, chosen: argparse.Namespace) -> None:
    try:
        learner.save(chosen.checkpoints)
    except (OSError, RuntimeError) as error:
        if not chosen.bulkhead:
            raise
        _say(job, f"no checkpoint at step {learner.step}: {str(error).splitlines()[0][:100]}")


def _arrive(job: Job, learner: Learner, chosen: argparse.Namespace) -> None:
    """Meet, and start from the same weights; again, should another one be lost meanwhile."""
    while True:
        try:
            job.meet()
            learner.take_over()
        except RuntimeError as error:
            if not chosen.bulkhead:
                raise
            _say(job, f"met in vain: {str(error).splitlines()[0][:100]}")
            time.sleep(SETTLE_S / 5)
        else:
            return _say(job, f"generation {job.generation} with ranks {job.members}, at step {learner.step}")


def _address(chosen: argparse.Namespace) -> tuple[str, int]:
    host, _, port = chosen.store.rpartition(":")
    return host, int(port)


def _say(job: Job, text: str) -> None:
    print(f"rank {job.rank}: {text}", flush=True)


def run_store(chosen: argparse.Namespace) -> int:
    """Be the store until a signal comes."""
    host, port = _address(chosen)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    kept = dist.TCPStore(host, port, is_master=True, wait_for_workers=False)
    print(f"store: {host}:{kept.port}", flush=True)
    while not over.wait(0.1):
        continue
    return 0


def run_all(chosen: argparse.Namespace) -> int:
    """Start the store and all ranks here; with the bulkhead, a rank that dies is started again."""
    words = [sys.executable, os.path.abspath(__file__)]
    passed_on = ["--store", chosen.store, "--ranks", str(chosen.ranks), "--steps", str(chosen.steps)]
    passed_on += ["--pace", str(chosen.pace), "--seed", str(chosen.seed), "--checkpoints", chosen.checkpoints]
    passed_on += ["--no-bulkhead"] * (not chosen.bulkhead)

    def start(rank: int, times: int) -> subprocess.Popen[bytes]:
        environment = {"RANK": str(rank), "WORLD_SIZE": str(chosen.ranks), "TORCHELASTIC_RESTART_COUNT": str(times)}
        return subprocess.Popen([*words, "rank", "--rank", str(rank), *passed_on], env={**os.environ, **environment})

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    store = subprocess.Popen([*words, "store", "--store", chosen.store])
    ranks = {rank: start(rank, 0) for rank in range(chosen.ranks)}
    starts = dict.fromkeys(ranks, 0)
    try:
        while any(process.poll() is None for process in ranks.values()):
            time.sleep(0.1)
            for rank, process in ranks.items():
                if chosen.bulkhead and process.poll():
                    starts[rank] += 1
                    ranks[rank] = start(rank, starts[rank])
        return max(abs(process.wait()) for process in ranks.values())
    finally:
        for process in (*ranks.values(), store):
            process.terminate()
        for process in (*ranks.values(), store):
            process.wait()


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=False, metavar="PART")
    rank = parts.add_parser("rank", help="one rank alone")
    rank.add_argument("--rank", type=int, default=int(os.environ.get("RANK", "0")), help="which (default RANK, else 0)")
    store = parts.add_parser("store", help="the store alone")
    for each in (parser, rank, store):
        each.add_argument("--store", default="127.0.0.1:29555", metavar="HOST:PORT", help="where the ranks meet")
    for each in (parser, rank):
        each.add_argument("--ranks", type=int, default=3, help="how many there are when all are there (default 3)")
        each.add_argument("--steps", type=int, default=600, help="how many (default 600)")
        each.add_argument("--pace", type=int, default=0, help="least duration of a step, ms (default 0)")
        each.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
        each.add_argument("--checkpoints", default="", metavar="FOLDER", help="save the weights there now and then")
        each.add_argument("--no-bulkhead", dest="bulkhead", action="store_false", help="end or hang with a lost rank")
    return parser


def main() -> int:
    """Run what the command line says."""
    chosen = _options().parse_args()
    if chosen.part is None:
        return run_all(chosen)
    return run_store(chosen) if chosen.part == "store" else run_rank(chosen)


if __name__ == "__main__":
    raise SystemExit(main())
