"""Faults in a test suite, and whether they stayed where they should: the fixtures ``chaos`` and ``containment``, the
mark ``@pytest.mark.chaos``.

::

    def test_a_replica_may_hang(chaos, containment, service):
        with containment("spec.yaml", service.run_folder) as run:
            service.load(seconds=10)
            with chaos("process.pause", service.target("b"), boundary="aiobs.replica=b", duration_s=10):
                service.load(seconds=10)
            service.load(seconds=10)
        assert run.holds()

Injecting must be allowed: ``pytest --chaos-armed`` or AIOBS_CHAOS=armed, and AIOBS_ENVIRONMENT; tests that inject
are skipped otherwise, with the reason. What is left behind fails the test. This module is imported by every
pytest run where aiobs is installed, so it imports nothing but pytest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aiobs.chaos.containment.asserting import Holding
    from aiobs.chaos.containment.trial import Containment
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
def _injected() -> list[Injection]:
    """The faults that this test injected, in order."""
    return []


@pytest.fixture
def chaos(request: pytest.FixtureRequest, pytestconfig: pytest.Config, _injected: list[Injection]) -> Iterator[Callable[..., Injection]]:  # fmt: skip
    """``chaos(fault, target, **values)``, as :func:`aiobs.chaos.inject`; everything is undone after the test."""
    from aiobs.chaos.lease import Lease, inject
    from aiobs.errors import ArmError

    if "containment" in request.fixturenames:
        request.getfixturevalue("containment")  # it says where to record, which the injector reads when it starts
    try:
        lease = Lease(armed=bool(pytestconfig.getoption("--chaos-armed")), who="pytest")
    except ArmError as error:
        pytest.skip(f"no faults here: {error}")

    def call(fault: str, target: str, **values: Any) -> Injection:
        found = inject(fault, target, lease=lease, **values)
        _injected.append(found)
        return found

    with lease:
        yield call


@pytest.fixture
def containment(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _injected: list[Injection]
) -> Containment:
    """``containment(spec, folder)`` and ``containment.holds(spec, folder)``: see :mod:`aiobs.chaos.containment.trial`.

    Where no folder is named it is AIOBS_RUN_DIR, set to a folder of this test where it is not set.
    """
    from aiobs.chaos.containment.trial import Containment

    if not os.environ.get("AIOBS_RUN_DIR"):
        monkeypatch.setenv("AIOBS_RUN_DIR", str(tmp_path / "run"))

    def tell(found: Holding) -> None:
        if not found:  # pytest cuts what it shows of an asserted value; a section of the failure stays whole
            request.node.add_report_section("call", "containment", repr(found))

    return Containment(Path(os.environ["AIOBS_RUN_DIR"]), tmp_path, lambda: _injected, tell)


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
