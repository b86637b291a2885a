"""Faults in a test suite: the fixture ``chaos`` and the mark ``@pytest.mark.chaos``.

::

    def test_a_replica_may_hang(chaos, service):
        with chaos("process.pause", f"pid:{service.replicas[0].pid}", duration_s=5):
            assert service.answers()

Injecting must be allowed: ``pytest --chaos-armed`` or AIOBS_CHAOS=armed, and AIOBS_ENVIRONMENT; tests that inject
are skipped otherwise, with the reason. What is left behind fails the test. This module is imported by every
pytest run where aiobs is installed, so it imports nothing but pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aiobs.chaos.lease import Injection


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--chaos-armed``."""
    parser.getgroup("aiobs").addoption(
        "--chaos-armed", action="store_true", help="allow tests to inject faults (as AIOBS_CHAOS=armed does)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers",
        "chaos(fault, target, **values): hold a fault while the test runs; target is a text, or the name of a fixture "
        "that gives one, as fixture:NAME",
    )


@pytest.fixture
def chaos(pytestconfig: pytest.Config) -> Iterator[Callable[..., Injection]]:
    """``chaos(fault, target, **values)``, as :func:`aiobs.chaos.inject`; everything is undone after the test."""
    from aiobs.chaos.lease import Lease, inject
    from aiobs.errors import ArmError

    try:
        lease = Lease(armed=bool(pytestconfig.getoption("--chaos-armed")), who="pytest")
    except ArmError as error:
        pytest.skip(f"no faults here: {error}")

    def call(fault: str, target: str, **values: Any) -> Injection:
        return inject(fault, target, lease=lease, **values)

    with lease:
        yield call


@pytest.fixture(autouse=True)
def _chaos_mark(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold the faults that the test is marked with."""
    marks = list(request.node.iter_markers("chaos"))
    if not marks:
        yield
        return
    call = request.getfixturevalue("chaos")
    held = []
    for mark in marks:
        fault, target = mark.args
        if target.startswith("fixture:"):
            target = request.getfixturevalue(target.removeprefix("fixture:"))
        held.append(call(fault, target, **mark.kwargs))
    yield
    for injection in reversed(held):
        injection.undo()
