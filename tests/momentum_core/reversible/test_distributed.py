"""Two processes train one stack: gradients are reduced while the stack is still reversing."""

from __future__ import annotations

import itertools
import os
import sys
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from momentum_core.reversible import MomentumStack

NUM_PROCESSES = 2
NUM_BLOCKS = 6
NUM_STEPS = 3
WIDTH = 8
TIMEOUT_SECONDS = 600

# Options of DistributedDataParallel, and two of this file's own.
CASES: dict[str, dict[str, bool]] = {
    "plain": {},
    "gradient_as_bucket_view": {"gradient_as_bucket_view": True},
    "find_unused_parameters": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
    "an unused parameter": {"unused": True},
    "an unused parameter, find_unused_parameters": {"unused": True, "find_unused_parameters": True},
    "no_sync": {"accumulate": True},
}


class Block(nn.Module):
    def __init__(self, unused: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.dropout = nn.Dropout(0.2)
        if unused:
            self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(torch.relu(self.norm(self.convolution(x))))


def _model(backward: str, unused: bool) -> nn.Module:
    torch.manual_seed(0)
    blocks = [Block(unused and number == 2) for number in range(NUM_BLOCKS)]
    return nn.Sequential(MomentumStack(blocks, gamma=0.9, backward=backward))


def _batch(step: int, rank: int) -> torch.Tensor:
    torch.manual_seed(100 + 10 * step + rank)
    return torch.randn(2, WIDTH, 5, 5)


def _gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


def _train(
    rank: int, backward: str, *, unused=False, accumulate=False, **options
) -> dict[str, Any]:
    """Return gradients, buffers and the order of events of a few steps."""
    model = _model(backward, unused)
    # Two kilobytes: every weight has a bucket of its own.
    parallel = DistributedDataParallel(model, bucket_cap_mb=0.002, **options)
    events: list[str] = []

    def reduce(_, bucket):
        events.append("reduce")
        work = dist.all_reduce(bucket.buffer().div_(NUM_PROCESSES), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    parallel.register_comm_hook(None, reduce)
    for number, block in enumerate(model[0].blocks):
        block.register_forward_hook(lambda *_, number=number: events.append(f"run {number}"))
    steps, unsynced = [], []
    for step in range(NUM_STEPS):
        model.zero_grad()
        events.clear()
        if accumulate:
            with parallel.no_sync():
                parallel(_batch(step + NUM_STEPS, rank)).square().sum().backward()
        unsynced += events
        events.clear()
        parallel(_batch(step, rank)).square().sum().backward()
        steps.append({"events": list(events), "gradients": _gradients(model)})
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return {"steps": steps, "unsynced": unsynced, "buffers": buffers}


def _average_without_ddp(rank: int) -> dict[str, torch.Tensor]:
    model = _model("stored", unused=False)
    model(_batch(0, rank)).square().sum().backward()
    gradients = _gradients(model)
    for gradient in gradients.values():
        dist.all_reduce(gradient.div_(NUM_PROCESSES))
    return gradients


def _run_process(rank: int, folder: str) -> None:
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=NUM_PROCESSES,
        timeout=timedelta(seconds=TIMEOUT_SECONDS),
    )
    results = {
        case: {backward: _train(rank, backward, **options) for backward in ("reversible", "stored")}
        for case, options in CASES.items()
    }
    found = {"cases": results, "average": _average_without_ddp(rank)}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each process found, in one run for all tests."""
    folder = tmp_path_factory.mktemp("distributed")
    context = mp.spawn(_run_process, (str(folder),), nprocs=NUM_PROCESSES, join=False)
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, f"no end after {TIMEOUT_SECONDS} seconds"
    finally:
        for process in context.processes:
            process.kill()
            process.join()
    assert [process.exitcode for process in context.processes] == [0] * NUM_PROCESSES
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(NUM_PROCESSES)]


def _assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        assert value is None or torch.equal(found[name], value), name


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_buffers_are_those_of_stored_graphs(ranks, case):
    for rank in ranks:
        found, expected = rank["cases"][case]["reversible"], rank["cases"][case]["stored"]
        _assert_equal(found["buffers"], expected["buffers"])
        for one, other in zip(found["steps"], expected["steps"], strict=True):
            _assert_equal(one["gradients"], other["gradients"])


@pytest.mark.parametrize("case", CASES)
def test_processes_agree_on_the_gradients(ranks, case):
    first, second = (rank["cases"][case]["reversible"]["steps"] for rank in ranks)
    for one, other in zip(first, second, strict=True):
        _assert_equal(one["gradients"], other["gradients"])


def test_gradients_are_the_average_of_what_each_process_finds_alone(ranks):
    for rank in ranks:
        _assert_equal(
            rank["cases"]["plain"]["reversible"]["steps"][0]["gradients"], rank["average"]
        )


@pytest.mark.parametrize("case", CASES)
def test_a_block_s_gradients_are_reduced_before_the_block_before_it_runs_again(ranks, case):
    forward = [f"run {number}" for number in range(NUM_BLOCKS)]
    for rank in ranks:
        # DDP lays its buckets out in the order in which the first steps' gradients arrived.
        events = rank["cases"][case]["reversible"]["steps"][-1]["events"]
        assert events[:NUM_BLOCKS] == forward
        backward = events[NUM_BLOCKS:]
        assert [event for event in backward if event != "reduce"] == forward[::-1]
        for one, other in itertools.pairwise(forward[::-1]):
            assert "reduce" in backward[backward.index(one) : backward.index(other)]


def test_nothing_is_reduced_while_gradients_are_only_accumulated(ranks):
    for rank in ranks:
        unsynced = rank["cases"]["no_sync"]["reversible"]["unsynced"]
        assert len(unsynced) == 2 * NUM_BLOCKS * NUM_STEPS
        assert "reduce" not in unsynced


def test_stored_graphs_are_not_run_again(ranks):
    for rank in ranks:
        for step in rank["cases"]["plain"]["stored"]["steps"]:
            runs = [event for event in step["events"] if event != "reduce"]
            assert runs == [f"run {number}" for number in range(NUM_BLOCKS)]
