"""Starting the service where things are not as they should be, or merely unusual."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.conftest import slow
from tests.end_to_end.conftest import MOMENTUM, Serving, serving

SHORT = {
    "source": {"zoo": "digits_resnet26"},
    "measurement": {"rivals": False, "predict": False},
    "refinement": {"max_steps": 1},
}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", ["a space, q?mark, per%41cent, hash# ünï", slow("l" * 100)])
def test_a_data_folder_of_any_name_holds_everything(tmp_path, name):
    folder = tmp_path / name
    with serving(folder, **ONE_THREAD) as service:
        service.wait_for(service.submit(SHORT), "succeeded", seconds=240)
    assert (folder / "momentum.db").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_folders_of_the_same_names_where_the_user_stands_are_not_imported(tmp_path, monkeypatch):
    for name in ("worker", "api"):
        (tmp_path / "here" / name).mkdir(parents=True)
        (tmp_path / "here" / name / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "here" / "redis.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path / "here")
    with serving(tmp_path / "data", working_folder=tmp_path / "here", **ONE_THREAD) as service:
        service.wait_for(service.submit(SHORT), "succeeded", seconds=240)


def test_the_demo_is_a_service_of_its_own_whatever_the_environment_says(tmp_path):
    done = subprocess.run(
        [MOMENTUM, "demo", "--output", tmp_path / "out"],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "MOMENTUM_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none",
            "MOMENTUM_BROKER_URL": "redis://127.0.0.1:1/0",
            **ONE_THREAD,
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "parameters",
        "top-1 of 500 test images",
        "99.20 %",
        "activation memory",
        "time of a training step",
    ):
        assert words in done.stdout
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert (tmp_path / "out" / "report.json").exists()
    assert "<h1>digits_resnet26</h1>" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("MOMENTUM_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none", "DATABASE_URL"),
        ("MOMENTUM_DATABASE_URL", "nonsense", "DATABASE_URL"),
        ("MOMENTUM_LEASE_SECONDS", "x", "MOMENTUM_LEASE_SECONDS"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_in_one_line(tmp_path, setting, value, words):
    done = subprocess.run(
        [MOMENTUM, "serve", "--port", "1999", "--data-dir", tmp_path / "data"],
        env={"PATH": "/usr/bin:/bin", setting: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_a_start_that_waits(tmp_path):
    service = Serving(tmp_path / "data", MOMENTUM_BROKER_URL="redis://127.0.0.1:1/0", **ONE_THREAD)
    starting = subprocess.Popen(
        [MOMENTUM, "serve", "--port", str(service.port), "--data-dir", service.data_dir],
        env=service.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    last = service.data_dir / "logs" / "api.log"  # of the child that is started last
    until = time.monotonic() + 120
    while not last.exists():
        assert time.monotonic() < until
        assert starting.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    starting.send_signal(signal.SIGINT)
    asked_at = time.monotonic()
    _, said = starting.communicate(timeout=90)
    assert time.monotonic() - asked_at < 40
    assert "stopped while it was starting" in said


def test_a_worker_without_its_device_says_so_and_ends(tmp_path):
    with serving(tmp_path / "data", MOMENTUM_DEVICE="cuda:7", **ONE_THREAD) as service:
        deadline = time.monotonic() + 240
        while "the worker cannot work: MOMENTUM_DEVICE is 'cuda:7'" not in service.log("worker"):
            assert time.monotonic() < deadline, service.log("worker")
            time.sleep(0.2)
