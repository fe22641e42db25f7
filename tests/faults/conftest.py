"""Services that the tests of a file harm, and leave running."""

from __future__ import annotations

import pytest

from tests.faults.stack import SMALL, stack


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The service on SQLite and the embedded Valkey, shared by the tests of a file."""
    with stack(tmp_path_factory.mktemp("stack")) as service:
        yield service


@pytest.fixture(autouse=True)
def _calm(request):
    """After a test nothing is armed, nobody is stopped, and no process is there besides."""
    yield
    if "service" in request.fixturenames:
        request.getfixturevalue("service").calm()


@pytest.fixture(scope="module")
def undisturbed(service) -> str:
    """The digest of the weights of `SMALL`, from a job that nothing happened to."""
    location = service.submit(SMALL)
    service.end_of(location)
    return service.weights(location)
