"""A refining job whose worker is killed goes on where it was, and ends with the same bits."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.end_to_end.conftest import Serving, serving

NUM_KILLS = 3
REQUEST = {
    "source": {"zoo": "digits_resnet26"},
    "conversion": {"gamma": 0.9, "plan_memory": False},
    "measurement": {"repeats": 1, "rivals": False, "predict": False},
    "refinement": {"max_steps": 60, "batch_size": 64, "goal": None},
}


@pytest.fixture
def own(tmp_path):
    environment = {
        "OMP_NUM_THREADS": "1",
        "MOMENTUM_CHECKPOINT_SECONDS": "0.2",
        "MOMENTUM_LEASE_SECONDS": "8",
        "MOMENTUM_MAX_ATTEMPTS": str(NUM_KILLS + 1),
    }
    with serving(tmp_path / "data", **environment) as service:
        yield service


def weights_of(job) -> str:
    [found] = [one["sha256"] for one in job["artifacts"] if one["name"] == "model.safetensors"]
    return str(found)


def wait_for_step(service: Serving, location: str, step: int, *, attempt: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        events = service.client.get(f"{location}/events").json()["events"]
        steps = [
            one["data"].get("step", 0)
            for one in events
            if one["attempt"] == attempt and one["kind"] == "progress"
        ]
        if max(steps, default=0) >= step:
            return
        time.sleep(0.1)
    pytest.fail(f"step {step} of attempt {attempt} did not come: {service.log('worker')}")


# Half a minute on a quiet machine.
@pytest.mark.timeout(600)
def test_a_job_that_is_killed_three_times_has_the_weights_of_one_that_is_not(own: Serving):
    expected = own.wait_for(own.submit(REQUEST), "succeeded", seconds=240)
    location = own.submit(REQUEST)
    steps = sorted(random.Random(7).sample(range(2, 50), NUM_KILLS))
    for number, step in enumerate(steps):
        wait_for_step(own, location, step, attempt=number + 1)
        os.kill(own.worker(), signal.SIGKILL)
    job = own.wait_for(location, "succeeded", seconds=240)
    assert job["attempt"] == NUM_KILLS + 1
    assert weights_of(job) == weights_of(expected)
    report = own.client.get(job["links"]["report"]).json()
    resumed_at = report["refinement"]["resumed_at"]
    assert len(resumed_at) == NUM_KILLS
    assert 0 < resumed_at[0] <= resumed_at[1] <= resumed_at[2]
    assert report["refinement"]["num_steps"] == 60
    until = time.monotonic() + 60
    while list((own.data_dir / "unfinished").iterdir()):  # removed once the end is recorded
        assert time.monotonic() < until
        time.sleep(0.05)
