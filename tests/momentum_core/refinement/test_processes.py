"""Two processes train one model: gradients are those of one process, and all end alike."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from momentum_core.config import FinetuningConfig, RefinementConfig
from momentum_core.errors import ConfigError, ReversibilityError, StateRangeError
from momentum_core.refinement import Checkpoints, StepProgress, finetune, refine
from momentum_core.refinement.objective import Distillation
from momentum_core.refinement.processes import NotFiniteError, Processes
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


def gradients(
    digits: Digits, micro_batch_size: int, num_images: int = 33, *, is_spoilt: bool = False
) -> dict[str, torch.Tensor]:
    """Return the gradients of one step, normalisation statistics fixed."""
    model = digits.rough().eval()
    Processes.current().align(model)
    if is_spoilt:
        with torch.no_grad():
            next(model.parameters()).mul_(1e12)
    _take(model, digits, micro_batch_size, num_images)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _take(
    model: nn.Module, digits: Digits, micro_batch_size: int = 33, num_images: int = 33
) -> None:
    stepper, images, labels = _stepper(model, digits, micro_batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stepper._gradients(model, optimizer, images[:num_images], labels[:num_images])


def _stepper(model: nn.Module, digits: Digits, micro_batch_size: int) -> tuple[Stepper, Any, Any]:
    """Return a stepper, and the images and labels of a batch."""
    images = digits.images()
    assert images.labels is not None
    recipe = resolve(CONFIG, images, num_train=600, device=torch.device("cpu"))
    objective = Distillation(digits.network, model, recipe)
    stepper = Stepper(objective, digits.preprocessing, recipe, micro_batch_size)
    return stepper, images.images[:33], images.labels[:33]


def refused(act: Callable[[], object]) -> str:
    """Return type and message of the error that is met, in every process."""
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def one_alone_fails(digits: Digits, rank: int, failing: int) -> str:
    """One process's activations do not fit the state."""
    return refused(lambda: gradients(digits, 5, is_spoilt=rank == failing))


def in_the_backward_pass(digits: Digits, rank: int) -> str:
    """One process's backward pass fails, and the others have their gradients already."""

    def act() -> None:
        model = digits.rough().eval()
        if rank == 1:
            model.linear.register_full_backward_hook(_fail)
        _take(model, digits)

    return refused(act)


def _fail(*_: object) -> None:
    raise ReversibilityError("not the same twice", code="not_deterministic")


def memory_runs_out(digits: Digits, rank: int) -> tuple[int, dict[str, torch.Tensor]]:
    """In one process, once: all go on with smaller pieces."""
    model = digits.rough().eval()
    Processes.current().align(model)
    start = state_of(model)
    seen: list[int] = []

    def fill(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        seen.append(len(arguments[0]))
        if rank == 1 and len(seen) == 1:
            raise torch.OutOfMemoryError("full")

    model.conv1.register_forward_pre_hook(fill)
    stepper, images, labels = _stepper(model, digits, 33)
    stepper.take(model, torch.optim.SGD(model.parameters(), lr=0.1), images, labels)
    assert stepper.has_halved
    moved = {name: value - start[name] for name, value in state_of(model).items()}
    return stepper.micro_batch_size, moved


def two_errors(rank: int) -> str:
    """All are to end alike."""

    def act() -> None:
        raise NotFiniteError if rank == 0 else StateRangeError("too large")

    return refused(lambda: Processes.current().together(act))


def held_after_an_error(digits: Digits, rank: int) -> bool:
    """Whether what was computed is still in memory, without a collection of cycles."""
    held: list[weakref.ref] = []

    def act() -> None:
        logits = digits.network(torch.zeros(1, 1, 8, 8))
        held.append(weakref.ref(logits))
        if rank == 1:
            raise NotFiniteError

    gc.disable()
    refused(lambda: Processes.current().together(act))
    is_held = held[0]() is not None
    gc.enable()
    return is_held


def first_fails(rank: int) -> str:
    """The first process cannot judge."""

    def judge() -> int:
        assert rank == 0, "the others do not"
        raise ConfigError("no goal", code="no_goal")

    return refused(lambda: Processes.current().from_first(judge))


def an_unknown_error(rank: int) -> str:
    """One process meets an error of which the others know nothing."""

    def act() -> None:
        if rank == 1:
            raise LookupError("odd")

    return refused(lambda: Processes.current().together(act))


def meet(rank: int, folder: str) -> None:
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


def _run(rank: int, folder: str) -> None:
    meet(rank, folder)
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
        "one image": gradients(digits, 5, 1),
        "one alone": [one_alone_fails(digits, rank, failing) for failing in range(2)],
        "backward": in_the_backward_pass(digits, rank),
        "memory": memory_runs_out(digits, rank),
        "two": two_errors(rank),
        "held": held_after_an_error(digits, rank),
        "first": first_fails(rank),
        "unknown": an_unknown_error(rank),
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


@pytest.mark.parametrize(("kind", "num_images"), [("whole", 33), ("pieces", 33), ("one image", 1)])
def test_two_processes_have_the_gradients_of_one(digits, ranks, kind, num_images):
    expected = gradients(digits, 33, num_images)
    for found in ranks:
        assert distance(expected, found[kind]) < 1e-5


def test_an_error_of_one_process_is_an_error_of_all(ranks):
    for found in ranks:
        assert all(one.startswith("StateRangeError: ") for one in found["one alone"])
        assert found["backward"] == "ReversibilityError: not the same twice"
        assert found["two"] == "NotFiniteError: "
        assert not found["held"]
        assert found["first"] == "ConfigError: no goal"
    first, second = (found["unknown"] for found in ranks)
    assert (first, second) == (
        "RuntimeError: another process met LookupError: odd",
        "LookupError: odd",
    )


def test_where_memory_runs_out_in_one_process_all_take_smaller_pieces(digits, ranks):
    model = digits.rough().eval()
    start = state_of(model)
    stepper, images, labels = _stepper(model, digits, 33)
    stepper.take(model, torch.optim.SGD(model.parameters(), lr=0.1), images, labels)
    alone = {name: value - start[name] for name, value in state_of(model).items()}
    for found in ranks:
        micro_batch_size, moved = found["memory"]
        assert micro_batch_size == 17
        assert distance(alone, moved) < 1e-5


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


def _finetune(rank: int, folder: str, until: int | None) -> None:
    """Fine-tune, with statistics that only the first process has re-estimated, up to a step."""
    meet(rank, folder)
    digits = make_digits()

    def stop(which: str, progress: StepProgress) -> None:
        if which == "momentum" and progress.step == until:
            raise InterruptedError

    done = finetune(
        digits.rough(),
        digits.network,
        digits.images(),
        digits.preprocessing,
        FinetuningConfig(max_steps=4, calibrate=False, batch_size=16),
        checkpoints=Checkpoints(Path(folder) / "states", every_seconds=0).below,
        on_step=stop,
    )
    told = done.result
    found = {
        "weights": state_of(done.momentum),
        "resumed at": (told.original.resumed_at, told.momentum.resumed_at),
        "is re-estimated": told.is_re_estimated,
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_fine_tuning_that_was_interrupted_goes_on_in_all_processes(tmp_path):
    def attempt(name: str, until: int | None = None) -> list[dict]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "rendezvous").unlink(missing_ok=True)
        mp.spawn(_finetune, args=(str(folder), until), nprocs=NUM_PROCESSES)
        return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_PROCESSES)]

    with pytest.raises(mp.ProcessRaisedException, match="InterruptedError"):
        attempt("broken", until=2)
    resumed, whole = attempt("broken"), attempt("whole")
    for one, other in zip(resumed, whole, strict=True):
        assert (one["resumed at"], other["resumed at"]) == (((4,), (2,)), ((), ()))
        assert one["is re-estimated"], "or the models would be alike in all processes anyhow"
        assert distance(one["weights"], other["weights"]) == 0
