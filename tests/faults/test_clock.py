"""Clocks are set by an hour: no lease ends for that, and no job is done twice."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.stack import END_SECONDS, ENDLESS, LEASE_SECONDS, Stack, stack, wait_until

pytestmark = pytest.mark.timeout(600)

HOUR = 3600


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    """The library that sets a process's clock."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a process's clock settable")
    made = tmp_path_factory.mktemp("shim") / "clock.so"
    source = Path(__file__).with_name("clock_shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source], check=True)
    return made


@pytest.mark.slow
@pytest.mark.fault(26)
def test_a_clock_that_is_set_ends_no_lease(tmp_path, shim):
    offset = tmp_path / "offset"
    offset.write_text("0")
    settable = {"LD_PRELOAD": str(shim), "MOMENTUM_CLOCK_OFFSET": str(offset)}
    with stack(tmp_path, **settable) as service:
        location = service.submit(ENDLESS)
        service.wait_for_stage(location, "refining")
        for hours in (1, -1):
            offset.write_text(str(hours * HOUR))
            _goes_on(service, location)
        # One that dies while the clock is wrong is missed; the other has a clock of its own.
        service.end_worker()
        own = tmp_path / "own"
        own.write_text(str(HOUR))
        service.add_worker(MOMENTUM_CLOCK_OFFSET=str(own))
        service.wait_for_stage(location, "refining", attempt=2)
        own.write_text(str(-HOUR))
        _goes_on(service, location)
        assert service.kinds(location).count("started") == 2
        service.client.post(f"{location}/cancel")
        service.wait_for(location, "cancelled", seconds=60)
        service.check()


def _goes_on(service: Stack, location: str) -> None:
    seen = len(service.kinds(location))
    time.sleep(2 * LEASE_SECONDS)
    wait_until(
        lambda: len(service.kinds(location)) > seen, "nothing is recorded", seconds=END_SECONDS
    )
    assert set(service.kinds(location)[seen:]) == {"progress"}
