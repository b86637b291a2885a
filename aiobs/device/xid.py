"""NVIDIA's XIDs, the driver's numbered error reports: what each means and what to do about it.

After NVIDIA's catalogue (https://docs.nvidia.com/deploy/xid-errors/), in our words. A number that is not here is
a new kind, which is told as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aiobs.device.base import FATAL, WARNING


class Xid(NamedTuple):
    """One kind of report; see :class:`aiobs.device.base.DeviceEvent` for what the severities mean."""

    number: int
    text: str
    severity: str
    action: str


_PROGRAM = "Look for the fault in the program first (compute-sanitizer, CUDA_LAUNCH_BLOCKING=1)."
_RESTART = "Restart the job; report it if it comes again."
_RESET = "Reset the GPU, then restart the job; have it examined if it comes again."
_REBOOT = "Reboot the node; have the GPU and its PCIe slot examined if it comes again."
_NVLINK = "Look at the links (nvidia-smi nvlink --status, --errorcounters); reset the GPU if traffic stopped."
_NOTHING = ""
_DEBUG = "See the kernel log (dmesg) for details; ask the vendor if it comes again."

_ROWS = (
    Xid(8, "The GPU stopped working on a channel.", WARNING, _RESTART),
    Xid(11, "A command stream that the program submitted was invalid or corrupted.", WARNING, _PROGRAM),
    Xid(13, "A kernel failed with an exception: an access out of bounds, or an illegal instruction.", WARNING, _PROGRAM),
    Xid(16, "The display engine hung.", WARNING, _DEBUG),
    Xid(18, "The display driver's state is inconsistent.", WARNING, _DEBUG),
    Xid(31, "A kernel touched memory that is not mapped.", WARNING, _PROGRAM),
    Xid(32, "The command stream was corrupted on its way to the GPU.", WARNING, _RESTART),
    Xid(37, "The driver's firmware reports an error.", WARNING, _DEBUG),
    Xid(38, "The driver's firmware failed.", WARNING, _RESTART),
    Xid(43, "The GPU stopped the program's work after an error in it.", WARNING, _PROGRAM),
    Xid(44, "The graphics engine failed while it switched between programs.", FATAL, _RESET),
    Xid(45, "The program's work was removed from the GPU, mostly after another error or a kill.", WARNING, "Look at the XIDs before it."),
    Xid(46, "The GPU stopped processing.", FATAL, _RESET),
    Xid(48, "An uncorrectable memory error happened on the GPU.", FATAL, _RESET),
    Xid(54, "Auxiliary power is not connected to the GPU.", FATAL, "Check the power cables."),
    Xid(56, "The display engine failed.", WARNING, _DEBUG),
    Xid(57, "The link to the GPU's memory could not be trained.", FATAL, _REBOOT),
    Xid(58, "The GPU's memory is unstable.", FATAL, _RESET),
    Xid(60, "The video processor failed.", WARNING, _RESTART),
    Xid(61, "A micro-controller of the GPU stopped at a breakpoint.", FATAL, _RESET),
    Xid(62, "A micro-controller of the GPU halted.", FATAL, _RESET),
    Xid(63, "A bad row of memory was recorded, to be replaced at the next reset.", WARNING, "Reset the GPU when it is idle."),
    Xid(64, "A bad row of memory could not be replaced.", FATAL, "Reset the GPU; have it replaced if the failure stays."),
    Xid(65, "The video encoder failed.", WARNING, _RESTART),
    Xid(66, "The driver touched a register of the GPU that it must not.", WARNING, _DEBUG),
    Xid(67, "A check inside the GPU's context switching failed.", WARNING, _DEBUG),
    Xid(68, "The video decoder failed.", WARNING, _RESTART),
    Xid(69, "The program used a command that this GPU does not have.", WARNING, _PROGRAM),
    Xid(74, "An NVLink failed, here or at its other end.", FATAL, _NVLINK),
    Xid(78, "A virtual GPU could not be started.", WARNING, "Update driver and vGPU software to versions that fit."),
    Xid(79, "The GPU has fallen off the bus: the driver cannot reach it over PCIe.", FATAL, _REBOOT),
    Xid(80, "Data sent to the GPU arrived corrupted.", WARNING, _RESTART),
    Xid(86, "The optical-flow engine failed.", WARNING, _RESTART),
    Xid(92, "Correctable memory errors come at a high rate.", WARNING, "Watch it; run the vendor's diagnostics."),
    Xid(93, "The GPU's infoROM was written more often than it was set up for.", WARNING, _NOTHING),
    Xid(94, "An uncorrectable memory error was contained: only the program that read it failed.", WARNING, "Restart the job; reset the GPU when it is idle."),
    Xid(95, "An uncorrectable memory error was not contained: every program on the GPU is affected.", FATAL, _RESET),
    Xid(109, "Switching between programs took too long.", FATAL, _RESET),
    Xid(110, "The GPU reports a security fault.", FATAL, "Cold-start the node; ask the vendor if it comes again."),
    Xid(119, "The GPU's system processor (GSP) did not answer the driver in time.", FATAL, _RESET),
    Xid(120, "The GPU's system processor (GSP) reports an error.", FATAL, _RESET),
    Xid(121, "Errors on the link between CPU and GPU (C2C) were corrected.", WARNING, "Reset the GPU when it is idle."),
    Xid(136, "An NVLink could not be trained.", FATAL, _NVLINK),
    Xid(137, "A GPU was accessed over NVLink in a way it does not allow.", WARNING, _PROGRAM),
    Xid(140, "Uncorrectable memory errors kept the driver from taking the memory out of use.", FATAL, _RESET),
    Xid(141, "CUDA's fast path reports an error.", WARNING, _DEBUG),
    Xid(143, "The GPU could not be initialised.", FATAL, _RESET),
    *(
        Xid(number, f"An NVLink reports an error ({unit}).", WARNING, _NVLINK)
        for number, unit in ((144, "SAW"), (145, "RLW"), (146, "TLW"), (147, "TREX"), (148, "NVLPW_CTRL"), (149, "NETIR"), (150, "MSE"))
    ),
    Xid(151, "Changing the encryption keys failed.", FATAL, "Restart the virtual machine."),
    Xid(154, "The driver changed what it asks for to recover the GPU.", WARNING, "See the XIDs around it, and the metric for the recovery action."),
    Xid(155, "An NVLink went down.", FATAL, _NVLINK),
    Xid(156, "A faulty part of the GPU was taken out of use, from the next reset on.", WARNING, "Reset the GPU when it is idle."),
    Xid(157, "A faulty part of the GPU could not be taken out of use; there is no spare.", WARNING, "Have the GPU replaced if errors come again."),
    Xid(158, "The GPU did not answer for too long.", FATAL, _RESET),
    Xid(159, "The link between CPU and GPU (C2C) reports an error.", WARNING, _DEBUG),
    Xid(160, "A faulty memory channel was taken out of use.", WARNING, _DEBUG),
    Xid(161, "A faulty memory channel could not be taken out of use.", WARNING, _DEBUG),
    Xid(162, "Power smoothing works again.", WARNING, _NOTHING),
    Xid(163, "Power smoothing was switched off, by heat or a timeout.", WARNING, "Find out why the GPU became hot."),
    Xid(164, "The circuit for power smoothing nears the end of its life.", WARNING, "Plan to replace the GPU if power swings matter."),
    Xid(165, "The circuit for power smoothing is worn out.", WARNING, "Replace the GPU if power swings matter."),
    Xid(166, "Traffic was seen on a link before it was set up for encryption.", WARNING, _DEBUG),
    Xid(167, "PCIe did not answer for too long.", FATAL, _REBOOT),
    Xid(168, "Errors in protected memory reduce what can be used.", WARNING, "Switch ECC on, or reboot the node."),
    Xid(169, "The GPU's security processor halted.", FATAL, _RESET),
    Xid(170, "A secured link reported an interrupt.", WARNING, _DEBUG),
    Xid(171, "The uncorrectable memory error of XID 48 was in DRAM.", FATAL, _RESET),
    Xid(172, "The uncorrectable memory error of XID 48 was in SRAM.", FATAL, _RESET),
)  # fmt: skip

XIDS: Mapping[int, Xid] = {row.number: row for row in _ROWS}
_COPY_ENGINES = frozenset({39, 40, 41, *range(70, 73), *range(75, 78), 85, *range(126, 136)})
_VIDEO = frozenset({42, 47, 82, 83, 84, 88, 89, *range(96, 106), 139, 142})


def describe(number: int) -> Xid:
    """What XID `number` means."""
    known = XIDS.get(number)
    if known is not None:
        return known
    if number in _COPY_ENGINES:
        return Xid(number, "A copy engine of the GPU failed.", WARNING, _RESTART)
    if number in _VIDEO:
        return Xid(number, "A media engine of the GPU failed.", WARNING, _RESTART)
    return Xid(number, f"The driver reported XID {number}, which is not in our list.", WARNING, _DEBUG)
