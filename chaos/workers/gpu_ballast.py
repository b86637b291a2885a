"""Hold memory of a GPU, through PyTorch."""

from __future__ import annotations

import sys
import time

from aiobs.chaos.workers.life import Worker

_CHUNK = 256 << 20


def main() -> None:
    """Take memory and hold it until asked to end."""
    worker = Worker()
    import torch

    gpu, size = worker.arguments["gpu"], worker.arguments["bytes"]
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU: its build is for CPUs, or the driver does not fit")
    if gpu >= torch.cuda.device_count():
        sys.exit(f"PyTorch finds {torch.cuda.device_count()} GPUs, numbered from 0")
    free, _ = torch.cuda.mem_get_info(gpu)
    worker.say()
    held: list[torch.Tensor] = []
    taken = 0
    while taken < size and not worker.ended:
        try:
            held.append(torch.empty(min(_CHUNK, size - taken), dtype=torch.uint8, device=f"cuda:{gpu}"))
        except torch.OutOfMemoryError:
            break
        taken += held[-1].numel()
    now, _ = torch.cuda.mem_get_info(gpu)
    if taken:
        worker.say(f"{taken} bytes of GPU {gpu} are held; {free} were free, {now} are", bytes=taken)
    while not worker.ended:
        time.sleep(0.02)


if __name__ == "__main__":
    main()
