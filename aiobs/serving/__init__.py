"""Requests: what a server answers, whichever framework it is written in.

Patches of frameworks begin and end a :class:`ServerRequest`; engines find it with :func:`current_request`. An engine
says what becomes of a request with an :class:`EngineRequest`, and what its steps cost with :class:`EngineSteps`.
"""

from aiobs.serving.engine_request import EngineRequest
from aiobs.serving.engine_steps import EngineStep, EngineSteps
from aiobs.serving.request import ServerRequest, current_request
from aiobs.serving.secrets import redact_with

__all__ = ["EngineRequest", "EngineStep", "EngineSteps", "ServerRequest", "current_request", "redact_with"]
