"""The wrappers of torch that shard parameters, on one process: they free memory all the same."""

import contextlib
import copy

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from momentum_core.errors import ReversibilityError
from momentum_core.reversible import MomentumStack, Recomputed

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def _process_group():
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@contextlib.contextmanager
def _refused():
    with pytest.raises(ReversibilityError, match="use DistributedDataParallel") as caught:
        yield
    assert caught.value.code == "sharded_parameters"


def _wrap(module, **options):
    return FullyShardedDataParallel(module, device_id=torch.device("cpu"), **options)


def _shard(module, **options):
    return fully_shard(module, mesh=init_device_mesh("cpu", (1,)), **options)


@pytest.mark.parametrize("backward", ["reversible", "stored"])
@pytest.mark.parametrize("use_orig_params", [True, False])
@pytest.mark.parametrize("behind_a_layer", [True, False])
def test_fully_sharded_data_parallel_around_a_stack_is_refused(
    make_blocks, make_input, backward, use_orig_params, behind_a_layer
):
    stack = MomentumStack(make_blocks("mlp", 3), backward=backward)
    model = nn.Sequential(nn.Linear(4, 4), stack) if behind_a_layer else nn.Sequential(stack)
    sharded = _wrap(model, use_orig_params=use_orig_params)
    with _refused():
        sharded(make_input("mlp"))


@pytest.mark.parametrize("use_orig_params", [True, False])
def test_fully_sharded_data_parallel_around_blocks_is_refused(
    make_blocks, make_input, use_orig_params
):
    blocks = [_wrap(block, use_orig_params=use_orig_params) for block in make_blocks("mlp", 2)]
    with _refused():
        MomentumStack(blocks)(make_input("mlp"))
    with _refused():
        Recomputed(blocks[0])(make_input("mlp"))


def test_fully_shard_of_single_blocks_is_refused(make_blocks, make_input):
    stack = MomentumStack(make_blocks("mlp", 3))
    for block in stack.blocks:
        _shard(block)
    with _refused():
        stack(make_input("mlp"))


class Leaks(nn.Module):
    """Lets its stack's output out past the hook that gathers the parameters again."""

    def __init__(self, stack):
        super().__init__()
        self.stack = stack

    def forward(self, x):
        self.leaked = self.stack(x)
        return self.leaked * 2


def test_parameters_that_are_still_shards_in_the_backward_pass_are_refused(make_blocks, make_input):
    model = nn.Sequential(Leaks(MomentumStack(make_blocks("mlp", 3))))
    _shard(model[0], reshard_after_forward=True)
    _shard(model)
    model(make_input("mlp"))
    with _refused():
        model[0].leaked.sum().backward()


@pytest.mark.parametrize("where", ["root", "stack", "stack that keeps its parameters"])
def test_fully_shard_of_whole_stacks_gives_the_same_gradients(make_blocks, make_input, where):
    torch.manual_seed(0)
    plain = nn.Sequential(
        Recomputed(nn.Linear(4, 4)),
        MomentumStack(make_blocks("mlp", 4), gamma=0.9),
        nn.Linear(4, 4),
    )
    model = copy.deepcopy(plain)
    if where != "root":
        _shard(model[1], reshard_after_forward=where == "stack")
    _shard(model)
    for _ in range(2):  # the second step finds gradients and gathered memory of the first
        for network in (plain, model):
            network(make_input("mlp")).square().sum().backward()
    for expected, found in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(found.grad.full_tensor(), expected.grad)
