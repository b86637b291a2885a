"""Every metric the agent computes: what kind it is, in which unit, in which buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiobs import names
from aiobs.device.quantities import QUANTITIES

SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
"""Bucket bounds of a duration for which no convention names others."""
_REQUEST_S: Final = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
"""HTTP and RPC requests, as their conventions have it."""
_MODEL_S: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
"""Whole requests of a generative model; this and the next three as the convention for generative AI has it."""
_FIRST_TOKEN_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
_OUTPUT_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS: Final = tuple(float(4**power) for power in range(14))
_BATCH: Final = tuple(float(2**power) for power in range(11))
"""Requests in one engine step."""

JOULES: Final = (
    0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5, 1e6,
)  # fmt: skip
"""Bucket bounds of an energy."""


@dataclass(frozen=True)
class Instrument:
    """A metric's kind (``histogram``, ``sum``, ``updown`` or ``gauge``), unit and description; `bounds` are the
    upper bounds of a histogram's buckets."""

    kind: str
    unit: str
    description: str
    bounds: tuple[float, ...] = SECONDS


LOGGED: Final = Instrument("gauge", "1", "Logged by the program.")
"""What a name that is not listed is: a scalar the program logged."""

INSTRUMENTS: Final[dict[str, Instrument]] = {
    names.TRAIN_STEP_DURATION: Instrument("histogram", "s", "Duration of a training step."),
    names.TRAIN_PHASE_DURATION: Instrument("histogram", "s", "Time of a training step spent in one phase."),
    names.DATA_WAIT_DURATION: Instrument("histogram", "s", "One wait for the data loader."),
    names.CHECKPOINT_DURATION: Instrument("histogram", "s", "Duration of saving or loading a checkpoint."),
    names.TRAIN_STEPS: Instrument("sum", "{step}", "Training steps finished."),
    names.TRAIN_STEPS_SKIPPED: Instrument("sum", "{step}", "Training steps whose optimizer step was skipped."),
    # -- serving
    names.HTTP_SERVER_DURATION: Instrument("histogram", "s", "Duration of HTTP server requests.", _REQUEST_S),
    names.HTTP_SERVER_ACTIVE: Instrument("updown", "{request}", "HTTP requests being answered."),
    names.RPC_SERVER_DURATION: Instrument("histogram", "s", "Duration of an incoming RPC.", _REQUEST_S),
    names.GEN_AI_SERVER_DURATION: Instrument("histogram", "s", "Duration of a request to a model server.", _MODEL_S),
    names.GEN_AI_SERVER_FIRST_TOKEN: Instrument(
        "histogram", "s", "Time to the first token, of successful answers.", _FIRST_TOKEN_S
    ),
    names.GEN_AI_SERVER_OUTPUT_TOKEN: Instrument(
        "histogram", "s", "Time per output token after the first, of successful answers.", _OUTPUT_TOKEN_S
    ),
    names.GEN_AI_CLIENT_DURATION: Instrument("histogram", "s", "Duration of a call of a model.", _MODEL_S),
    names.GEN_AI_CLIENT_FIRST_CHUNK: Instrument("histogram", "s", "Time to the first chunk of a stream.", _MODEL_S),
    names.GEN_AI_CLIENT_OUTPUT_CHUNK: Instrument(
        "histogram", "s", "Mean time per chunk after the first, one value a stream.", _MODEL_S
    ),
    names.GEN_AI_CLIENT_TOKENS: Instrument("histogram", "{token}", "Tokens of a call of a model.", _TOKENS),
    names.SERVER_TOKENS: Instrument("sum", "{token}", "Tokens of the requests answered."),
    names.SERVER_DISCONNECTS: Instrument("sum", "{request}", "Requests whose caller left before the answer was whole."),
    names.SERVER_STALLS: Instrument("sum", "{stall}", "Pauses within streamed answers."),
    names.REQUEST_QUEUE: Instrument("histogram", "s", "Time a request waited for the engine.", _FIRST_TOKEN_S),
    names.REQUEST_PREFILL: Instrument("histogram", "s", "Time the engine took to read a prompt.", _FIRST_TOKEN_S),
    names.REQUEST_DECODE: Instrument("histogram", "s", "Time the engine took to write an answer.", _MODEL_S),
    names.ENGINE_REQUESTS: Instrument("gauge", "{request}", "Requests in the engine, running or waiting."),
    names.ENGINE_KV_USAGE: Instrument("gauge", "1", "Part of the KV cache in use."),
    names.ENGINE_STEP_DURATION: Instrument("histogram", "s", "Duration of a step of the engine."),
    names.ENGINE_BATCH: Instrument("histogram", "{request}", "Requests the engine had admitted in a step.", _BATCH),
    names.ENGINE_TOKENS: Instrument(
        "sum", "{token}", "Tokens the engine ran: of prompts (input), in decoding (output)."
    ),
    names.ENGINE_PREEMPTIONS: Instrument("sum", "{preemption}", "Requests the engine put back to make room."),
    names.TRAIN_PHASE_GPU_DURATION: Instrument("histogram", "s", "Time a GPU took over one phase of a training step."),
    names.TRAIN_STEPS_BOUND: Instrument("sum", "{step}", "Training steps by what most of their time went to."),
    names.GPU_ARRIVALS_DROPPED: Instrument("sum", "{moment}", "Phase boundaries whose time on the GPU was given up."),
}

INSTRUMENTS.update({row.metric: Instrument(row.kind, row.unit, row.description) for row in QUANTITIES.values()})
INSTRUMENTS.update({
    names.TRAIN_STEP_ENERGY: Instrument("histogram", "J", "A training step's share of what its GPUs drew.", JOULES),
    names.GPU_ROWS_UNATTRIBUTED: Instrument("sum", "{span}", "Spans exported before it was known what the GPU did."),
    names.GPU_ENERGY_UNATTRIBUTED: Instrument("sum", "J", "What a GPU drew while no recorded process used it."),
    names.GPU_SAMPLER_RESTARTS: Instrument("sum", "{restart}", "Samplers that hung or died and were replaced."),
    names.GPU_SAMPLER_SLOW: Instrument("sum", "{reading}", "Readings so slow that the device is read less often."),
    names.HW_STATUS: Instrument("updown", "1", "Operational status: 1 for the current state, 0 for the others."),
    names.PROCESS_CPU_TIME: Instrument("sum", "s", "Total CPU seconds broken down by different CPU modes."),
    names.PROCESS_MEMORY_USAGE: Instrument("updown", "By", "The amount of physical memory in use."),
    names.PROCESS_MEMORY_VIRTUAL: Instrument("updown", "By", "The amount of committed virtual memory."),
    names.PROCESS_THREAD_COUNT: Instrument("updown", "{thread}", "Process threads count."),
    names.PROCESS_DESCRIPTORS: Instrument("updown", "{file_descriptor}", "Number of unix file descriptors in use."),
    names.PROCESS_CONTEXT_SWITCHES: Instrument("sum", "{context_switch}", "Context switches of the main thread."),
    names.PROCESS_DISK_IO: Instrument("sum", "By", "Disk bytes transferred."),
    names.PROCESS_PAGING_FAULTS: Instrument("sum", "{fault}", "Number of page faults the process has made."),
    names.CONTAINER_CPU_TIME: Instrument("sum", "s", "Total CPU time consumed."),
    names.CONTAINER_CPU_LIMIT: Instrument("gauge", "{cpu}", "CPUs the control group may use at once."),
    names.CONTAINER_CPU_THROTTLED: Instrument("sum", "s", "Time the control group was held back for its CPU limit."),
    names.CONTAINER_MEMORY_USAGE: Instrument("updown", "By", "Memory usage of the container."),
    names.CONTAINER_MEMORY_LIMIT: Instrument("gauge", "By", "Memory the control group may use."),
    names.OOM_KILLS: Instrument("sum", "{process}", "Processes of the control group killed for lack of memory."),
    names.SYSTEM_CPU_TIME: Instrument("sum", "s", "Seconds each logical CPU spent on each mode."),
    names.SYSTEM_MEMORY_USAGE: Instrument("updown", "By", "Reports memory in use by state."),
    names.SYSTEM_MEMORY_LIMIT: Instrument("updown", "By", "Total virtual memory available in the system."),
    names.SYSTEM_DISK_IO: Instrument("sum", "By", "Disk bytes transferred."),
    names.SYSTEM_NETWORK_IO: Instrument("sum", "By", "The number of bytes transmitted and received."),
    names.SYSTEM_NETWORK_ERRORS: Instrument("sum", "{error}", "Count of network errors detected."),
    names.HW_NETWORK_IO: Instrument("sum", "By", "Received and transmitted network traffic in bytes."),
    names.HW_NETWORK_PACKETS: Instrument("sum", "{packet}", "Received and transmitted packets."),
    names.FAULT_ACTIVE: Instrument("updown", "{fault}", "Faults in force on this host: 1 while one is, 0 after."),
    names.PRESSURE_STALLED: Instrument("sum", "s", "Time in which tasks waited for CPU, memory or disks."),
})  # fmt: skip
