"""Clocks are set by an hour: no lease ends for that, and no job is done twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.stack import LEASE_SECONDS, SMALL, small_job, stack, wait_until

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


@pytest.mark.fault(26)
@pytest.mark.parametrize("who", ["everybody", "one worker"])
def test_a_clock_that_is_set_ends_no_lease(tmp_path, shim, who):
    offset = tmp_path / "offset"
    offset.write_text("0")
    settable = {"LD_PRELOAD": str(shim), "MOMENTUM_CLOCK_OFFSET": str(offset)}
    with stack(tmp_path, **(settable if who == "everybody" else {})) as service:
        if who == "one worker":
            service.end_of(service.submit(SMALL))
            os.kill(service.pid("worker"), signal.SIGSTOP)
            os.kill(service.child(), signal.SIGSTOP)
            service.add_worker(**settable)
        location = service.submit(small_job(max_steps=100_000))
        service.wait_for_stage(location, "refining")
        for hours in (1, -1, 0):
            offset.write_text(str(hours * HOUR))
            seen = len(service.events(location))
            time.sleep(2 * LEASE_SECONDS)
            assert len(service.events(location)) > seen, "it goes on"
        kinds = service.kinds(location)
        assert kinds.count("started") == 1
        assert "requeued" not in kinds
        service.client.post(f"{location}/cancel")
        service.wait_for(location, "cancelled", seconds=10)
        if who == "everybody":
            # A worker that dies with the clock set is missed all the same.
            offset.write_text(str(HOUR))
            location = service.submit(small_job(max_steps=40))
            service.wait_for_stage(location, "refining")
            os.kill(service.child(), signal.SIGKILL)
            wait_until(
                lambda: service.job(location)["attempt"] == 2, "it is not missed", seconds=60
            )
            service.end_of(location)
            service.check()
