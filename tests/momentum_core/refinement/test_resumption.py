"""A training that was interrupted, anywhere, ends with the same bits as one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from momentum_core.config import RefinementConfig
from momentum_core.refinement import Checkpoints, refine
from tests.conftest import ROOT
from tests.momentum_core.refinement.conftest import equal_states, state_of

NUM_STEPS = 60
CONFIG = RefinementConfig(
    max_steps=10,
    batch_size=32,
    learning_rate=0.02,
    evaluation_interval=4,
    calibrate=False,
    goal=None,
)


class _Stopped(Exception):
    pass


def stop_at(step: int):
    def on_step(progress):
        if progress.step == step:
            raise _Stopped

    return on_step


def run(digits, config=CONFIG, **options):
    arguments = (digits.network, digits.images(), digits.preprocessing, config)
    return refine(digits.rough(), *arguments, **options)


def test_a_training_stopped_between_steps_goes_on_with_the_same_bits(digits, tmp_path):
    expected = run(digits)
    # No state but that of the start is written, unless it is told to stop.
    checkpoints = Checkpoints(tmp_path / "here", every_seconds=3600)
    for step in (3, 8):
        with pytest.raises(_Stopped):
            run(digits, checkpoints=checkpoints, on_step=stop_at(step))
    steps, torch_state = [], torch.get_rng_state()
    found = run(digits, checkpoints=checkpoints, on_step=lambda one: steps.append(one.step))
    assert steps == [9, 10]
    assert found.result.resumed_at == (3, 8)
    assert equal_states(state_of(expected.model), state_of(found.model))
    plain = replace(found.result, resumed_at=(), seconds=expected.result.seconds)
    assert plain == expected.result
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_calibration_is_not_done_again(digits, tmp_path):
    config = replace(CONFIG, calibrate=True)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(_Stopped):
        run(digits, config, checkpoints=checkpoints, on_step=stop_at(2))
    done = []
    found = run(digits, config, checkpoints=checkpoints, on_preparing=done.append)
    assert done == []
    assert found.result.is_calibrated
    assert found.result.calibration["after"]["agreement"] > 0.9
    assert equal_states(state_of(run(digits, config).model), state_of(found.model))


@pytest.mark.parametrize("change", ["config", "seed", "images", "damage"])
def test_the_state_of_another_training_is_not_taken(digits, tmp_path, change):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(_Stopped):
        run(digits, checkpoints=checkpoints, on_step=stop_at(2))
    config, seed, images = CONFIG, 0, digits.images()
    if change == "config":
        config = replace(CONFIG, learning_rate=0.01)
    elif change == "seed":
        seed = 1
    elif change == "images":
        images = digits.images(500)
    else:
        for file in tmp_path.iterdir():
            file.write_bytes(file.read_bytes()[:-100])
    found = refine(
        digits.rough(),
        digits.network,
        images,
        digits.preprocessing,
        config,
        seed=seed,
        checkpoints=checkpoints,
    )
    assert found.result.resumed_at == ()


def test_of_two_states_the_one_before_is_taken_if_the_newest_is_damaged(digits, tmp_path):
    expected, told = run(digits), []
    checkpoints = Checkpoints(tmp_path, every_seconds=0, on_discarded=told.append)
    with pytest.raises(_Stopped):
        run(digits, checkpoints=checkpoints, on_step=stop_at(5))
    states = sorted(tmp_path.iterdir())
    assert len(states) == 2
    content = bytearray(states[-1].read_bytes())
    content[len(content) // 2] ^= 1
    states[-1].write_bytes(content)
    found = run(digits, checkpoints=checkpoints)
    assert len(told) == 1
    assert "digest" in told[0]
    assert found.result.resumed_at[0] < 5
    assert equal_states(state_of(expected.model), state_of(found.model))


def test_the_number_of_threads_is_that_of_the_start(digits, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(_Stopped):
        run(digits, checkpoints=checkpoints, on_step=stop_at(2))
    seen = set()
    torch.set_num_threads(2)
    try:
        run(digits, checkpoints=checkpoints, on_step=lambda _: seen.add(torch.get_num_threads()))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == {1}


def start_process(folder: Path) -> subprocess.Popen[str]:
    name = "tests.momentum_core.refinement.killed_training"
    return subprocess.Popen(
        [sys.executable, "-m", name, folder, str(NUM_STEPS)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def undisturbed(folder: Path) -> str:
    """Return the digest of the weights that a process ends with."""
    output, _ = start_process(folder).communicate()
    return output.splitlines()[-1]


def killed_at(folder: Path, steps: list[int]) -> tuple[str, str]:
    """Kill a process after each of these steps, somewhere in the next; return its last lines."""
    for step in steps:
        process = start_process(folder)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == str(step):
                break
        # A step takes some hundredths of a second.
        time.sleep(random.Random(step).uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    output, _ = start_process(folder).communicate()
    resumed, digest = output.splitlines()[-2:]
    return resumed, digest


def test_a_process_that_is_killed_goes_on_with_the_same_bits(tmp_path):
    expected = undisturbed(tmp_path / "whole")
    assert expected.startswith("digest ")
    steps = sorted(random.Random(5).sample(range(4, NUM_STEPS - 2), 3))
    resumed, digest = killed_at(tmp_path / "killed", steps)
    assert digest == expected
    assert len(resumed.split()) == 4
