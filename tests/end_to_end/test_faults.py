"""What happens when processes die: nothing is lost, nothing is done twice, nothing is left."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any

import pytest

from tests.end_to_end.conftest import MOMENTUM, Serving, serving

LIGHT = {"rivals": False, "predict": False}


def _steps(number: int) -> dict[str, Any]:
    """A job that trains for so many steps: no goal ends it sooner."""
    refinement = {"max_steps": number, "batch_size": 64, "goal": None, "calibrate": False}
    return {
        "source": {"zoo": "digits_resnet26"},
        "measurement": LIGHT,
        "refinement": refinement,
    }


SHORT, ENDLESS = _steps(5), _steps(100_000)


# One thread: the tiny network gains nothing from a second one, and needs both cores for it.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def own(tmp_path):
    with serving(tmp_path / "data", **ONE_THREAD) as service:
        yield service


def gone(pids: list[int]) -> bool:
    """Whether all processes have ended; a zombie that nobody waits for has."""

    def has_ended(pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if all(has_ended(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("stage", ["measuring", "refining"])
def test_a_cancelled_job_stops_within_seconds_and_the_worker_goes_on(own: Serving, stage):
    endless = (
        ENDLESS | {"measurement": LIGHT | {"repeats": 100}} if stage == "measuring" else ENDLESS
    )
    location = own.submit(endless)
    own.wait_for(location, "running", seconds=240, stage=stage)
    worker = own.worker()
    asked_at = time.monotonic()
    assert own.client.post(f"{location}/cancel").status_code == 202
    job = own.wait_for(location, "cancelled", seconds=60)
    assert time.monotonic() - asked_at < 30
    assert (job["result"], job["artifacts"], job["error"]) == (None, [], None)
    assert own.wait_for(own.submit(SHORT), "succeeded", seconds=240)["attempt"] == 1
    assert own.worker() == worker
    assert not list((own.data_dir / "tmp").iterdir())


def test_ctrl_c_ends_everything_and_a_restart_goes_on(tmp_path):
    with serving(tmp_path / "data", **ONE_THREAD) as service:
        location = service.submit(ENDLESS)
        service.wait_for(location, "running", seconds=240, stage="refining")
        pids = service.processes()
        assert len(pids) >= 5
        stopped_at = time.monotonic()
        service.send(signal.SIGINT)
        assert service.wait(60) == 0
        assert time.monotonic() - stopped_at < 30
        assert gone(pids)
        service.start()
        job = service.wait_for(location, "running", seconds=240, stage="refining")
        assert job["attempt"] == 1, "an orderly stop is not counted"


def test_a_killed_supervisor_leaves_no_orphan(tmp_path):
    with serving(tmp_path / "data", **ONE_THREAD) as service:
        service.wait_for(service.submit(ENDLESS), "running", seconds=240, stage="refining")
        pids = service.processes()
        service.send(signal.SIGKILL)
        service.wait(60)
        assert gone(pids)


def test_a_folder_in_use_and_a_port_in_use_are_refused(own: Serving, tmp_path):
    for arguments, words in (
        (["--data-dir", own.data_dir, "--port", "1999"], "runs in"),
        (["--data-dir", tmp_path / "other", "--port", str(own.port)], "choose another --port"),
    ):
        done = subprocess.run(
            [MOMENTUM, "serve", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert words in done.stderr
    assert own.client.get("/readyz").status_code == 200
