"""The errors aiobs raises, one root and few leaves; what a caller may need sits on attributes.

Errors reach a user only where the user asked for something (a setting, a command, an API call with bad
arguments). Inside the user's running program our own faults stop at :mod:`aiobs.guard`.
"""

from __future__ import annotations


class AiobsError(Exception):
    """Root of everything aiobs raises on purpose."""


class SettingError(AiobsError):
    """A setting cannot be used.

    Attributes:
        field: name of the setting (its environment variable where it has one).
        value: what was given.
        remedy: what to do instead, one sentence.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field}={value!r}: {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy


class NotEnabledError(AiobsError):
    """An optional part is not installed.

    Attributes:
        part: what was asked for.
        extra: the extra that brings it; the message holds the pip command.
    """

    def __init__(self, part: str, extra: str) -> None:
        super().__init__(f"{part} is not installed: run  pip install 'aiobs-sdk[{extra}]'")
        self.part = part
        self.extra = extra


class RecordError(AiobsError):
    """A flight record cannot be made or read.

    Attributes:
        path: the file or folder.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


class ExportError(AiobsError):
    """Telemetry could not be handed over.

    Attributes:
        permanent: true where sending the same body again cannot help.
        retry_after_s: seconds the receiver asked us to wait, or None.
    """

    def __init__(self, message: str, *, permanent: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.retry_after_s = retry_after_s


class PatchError(AiobsError):
    """A patch could not be installed or removed.

    Attributes:
        target: the dotted name of the object.
    """

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(f"{target}: {reason}")
        self.target = target


class DeviceError(AiobsError):
    """A device, or a vendor's library, refused.

    Attributes:
        device: id of the device, "" for the library as a whole.
        code: the library's error number; 0 where it has none.
    """

    def __init__(self, device: str, reason: str, code: int = 0) -> None:
        super().__init__(f"{device}: {reason}" if device else reason)
        self.device = device
        self.code = code


class DeviceLostError(DeviceError):
    """The device is not there any more: fallen off its bus, or taken apart."""


class PlanError(AiobsError):
    """A fault cannot be injected as planned; nothing was touched.

    Attributes:
        field: what of the plan: its fault, target, a parameter.
        value: what was given.
        remedy: what to do instead, one sentence.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field}={value!r}: {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy


class ArmError(AiobsError):
    """Injection is not allowed here: not armed, no marker of the environment, protected, stopped, or locked."""


class FaultError(AiobsError):
    """A fault could not be injected, had no effect, or could not be undone.

    Attributes:
        stage: inject, effect or undo.
        residue: what is left behind, one sentence each; empty where everything is as it was.
    """

    def __init__(self, stage: str, message: str, residue: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.stage = stage
        self.residue = residue


class InjectedError(AiobsError):
    """What a point raises where the plan names no type of the program's own."""
