"""Two processes train one model: gradients are those of one process, and all end alike."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from momentum_core.config import FinetuningConfig, RefinementConfig
from momentum_core.refinement import Checkpoints, finetune, refine
from momentum_core.refinement.objective import Distillation
from momentum_core.refinement.processes import Processes
from momentum_core.refinement.recipe import resolve
from momentum_core.refinement.step import Stepper
from tests.momentum_core.refinement.conftest import Digits, make_digits, state_of

NUM_PROCESSES = 2
CONFIG = RefinementConfig(
    max_steps=5,
    batch_size=33,  # not even: shares differ
    learning_rate=0.02,
    evaluation_interval=2,
    feature_weight=0.5,
    calibrate=False,
    goal=None,
)


def gradients(digits: Digits, micro_batch_size: int) -> dict[str, torch.Tensor]:
    """Return the gradients of one step on 33 images, normalisation statistics fixed."""
    model, processes, images = digits.rough().eval(), Processes.current(), digits.images()
    recipe = resolve(CONFIG, images, num_train=600, device=torch.device("cpu"))
    stepper = Stepper(
        Distillation(digits.network, model, recipe), digits.preprocessing, recipe, micro_batch_size
    )
    called = processes.wrapped(model, parts_may_rest=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert images.labels is not None
    stepper._gradients(called, optimizer, images.images[:33], images.labels[:33])
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _run(rank: int, folder: str) -> None:
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=NUM_PROCESSES,
        timeout=timedelta(seconds=120),
    )
    digits = make_digits()
    told = []
    checkpoints = Checkpoints(Path(folder) / "state")
    arguments = (digits.network, digits.images(), digits.preprocessing)
    refined = refine(
        digits.rough(),
        *arguments,
        CONFIG,
        checkpoints=checkpoints,
        on_step=lambda progress: told.append(progress.step),
    )
    tuned = finetune(
        digits.rough(), *arguments, FinetuningConfig(max_steps=4, calibrate=False, batch_size=16)
    )
    calibrated = refine(digits.momentum(), *arguments, replace(CONFIG, calibrate=True, max_steps=1))
    found = {
        "whole": gradients(digits, 33),
        "pieces": gradients(digits, 5),
        "refined": state_of(refined.model),
        "result": refined.result.refined_percent,
        "told": told,
        "tuned": state_of(tuned.momentum),
        "calibrated": state_of(calibrated.model),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(_run, args=(str(folder),), nprocs=NUM_PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(NUM_PROCESSES)]


def distance(one, other) -> float:
    """Norm of the difference over the norm, of everything together."""
    assert one.keys() == other.keys()
    apart = sum(float((one[key].double() - other[key].double()).square().sum()) for key in one)
    return (apart / sum(float(one[key].double().square().sum()) for key in one)) ** 0.5


@pytest.mark.parametrize("kind", ["whole", "pieces"])
def test_two_processes_have_the_gradients_of_one(digits, ranks, kind):
    expected = gradients(digits, 33)
    for found in ranks:
        assert distance(expected, found[kind]) < 1e-5


def test_all_processes_end_with_the_same_weights_near_those_of_one(digits, ranks):
    for name in ("refined", "tuned", "calibrated"):
        assert distance(ranks[0][name], ranks[1][name]) == 0, name
    alone = refine(digits.rough(), digits.network, digits.images(), digits.preprocessing, CONFIG)
    start = state_of(digits.rough())
    moved = {key: value - start[key] for key, value in state_of(alone.model).items()}
    found = {key: value - start[key] for key, value in ranks[0]["refined"].items()}
    assert distance(moved, found) < 1e-2
    assert ranks[0]["result"] == ranks[1]["result"] == alone.result.refined_percent


def test_only_the_first_process_reports(ranks):
    assert [found["told"] for found in ranks] == [[1, 2, 3, 4, 5], []]


def test_shares_of_a_batch_are_complete():
    for count in (1, 2, 3, 7):
        slices = [Processes(rank, count).share(33) for rank in range(count)]
        assert [n for one in slices for n in range(33)[one]] == list(range(33))
