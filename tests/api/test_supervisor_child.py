"""When a process of the service is started again: at once if it had worked, else later."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from api.supervisor import child as module
from api.supervisor.child import Child


@pytest.fixture
def make_child(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STEADY_SECONDS", 0.5)
    made: list[Child] = []

    def make(program: str) -> Child:
        command = [sys.executable, "-c", program]
        child = Child("worker", command, environment=os.environ, log=tmp_path / "log")
        made.append(child)
        child.start()
        return child

    yield make
    for child in made:
        child.stop(time.monotonic())


def seconds_to_restart(child: Child) -> float:
    """Return how long an ended child stays away."""
    ended = time.monotonic()
    while child.restart_if_ended() is None:
        assert time.monotonic() < ended + 20
        time.sleep(0.02)
    return time.monotonic() - ended


def wait_until_ended(child: Child) -> None:
    while not child.has_ended():
        time.sleep(0.02)


def test_one_that_had_worked_is_started_at_once_however_often_it_is_killed(make_child):
    child = make_child("import time; time.sleep(60)")
    for _ in range(5):
        time.sleep(0.7)
        os.kill(child.process_id, signal.SIGKILL)
        wait_until_ended(child)
        assert seconds_to_restart(child) < 0.9


def test_one_that_fails_at_its_start_is_left_alone_for_longer_each_time(make_child, monkeypatch):
    # On a slow machine even such a start takes a while.
    monkeypatch.setattr(module, "_STEADY_SECONDS", 1000.0)
    child = make_child("raise SystemExit(3)")
    pauses = []
    for _ in range(3):
        wait_until_ended(child)
        pauses.append(seconds_to_restart(child))
    assert pauses[0] < 0.9
    assert 0.5 < pauses[1] < pauses[2]
