import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from momentum_core.reversible import MomentumStack
from momentum_core.reversible.float_rule import run_floats
from momentum_core.reversible.increment import BlockRule


class Wave(nn.Module):
    """A residual block for any shape: its parameter is one number."""

    def __init__(self):
        super().__init__()
        self.pitch = nn.Parameter(torch.rand(()) + 1.0)

    def forward(self, x):
        return x + torch.sin(self.pitch * x)


def _relative(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


class WideAttention(nn.Module):
    """Layer norm over 4 numbers amplifies any noise a hundredfold where they are nearly equal."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        y = self.norm(x)
        return x + self.attention(y, y, y, need_weights=False)[0]


GAMMAS = (1 / 16, 0.1, 0.3, 1 / 2, 0.7, 7 / 8, 0.9, 0.97, 0.99)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", ["mlp", "conv", "attention", "attention in eval mode"])
def test_gradients_agree_with_float64_autograd_of_the_real_rule(make_blocks, kind, gamma):
    for seed in range(3):
        torch.manual_seed(seed)
        if kind.startswith("attention"):
            blocks, x = [WideAttention() for _ in range(40)], torch.randn(2, 6, 16)
        else:
            blocks = [copy.deepcopy(block) for block in make_blocks(kind, 40)]
            x = torch.randn(4, 4) if kind == "mlp" else torch.randn(2, 3, 5, 5)
        stack = MomentumStack(blocks, gamma=gamma).train(kind != "attention in eval mode")
        for module in stack.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # a mask drawn in double precision would be another one
        real = copy.deepcopy(stack).double()
        y = stack(x.requires_grad_())
        y.square().sum().backward()
        x64 = x.detach().double().requires_grad_()
        y64 = real.forward_floats(x64)[0]
        y64.square().sum().backward()
        assert _relative(y.detach(), y64.detach()) < 1e-3
        assert _relative(x.grad, x64.grad) < 1e-3
        # Per block, all parameters together: single biases may have a gradient of nearly nothing.
        for block, real_block in zip(stack.blocks, real.blocks, strict=True):
            found = torch.cat([p.grad.flatten() for p in block.parameters()])
            expected = torch.cat([p.grad.flatten() for p in real_block.parameters()])
            assert _relative(found, expected) < 1e-3


def test_the_real_rule_passes_gradcheck(make_blocks):
    blocks = [block.double() for block in make_blocks("mlp", 3)]
    rules = [BlockRule(0.4, None, None), BlockRule(0.7), BlockRule(1.0)]
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, v: run_floats(blocks, rules, 0.6, x, v, (), {}), (x, v)
    )


def test_the_rule_s_own_tensors_get_the_gradients_of_the_real_rule(make_blocks, make_input):
    torch.manual_seed(3)
    stack = MomentumStack(
        make_blocks("mlp", 6),
        gamma=0.8,
        coefficients=torch.rand(6, 4) * 0.5 + 0.5,
        offsets=torch.randn(6) * 0.1,
        predictors=torch.randn(6, 4) * 0.1,
        trainable_rule=True,
        initial_velocity=nn.Linear(4, 4),
    )
    real = copy.deepcopy(stack).double()
    x = make_input("mlp").requires_grad_()
    stack(x).square().sum().backward()
    x64 = x.detach().double().requires_grad_()
    real.forward_floats(x64)[0].square().sum().backward()
    assert _relative(x.grad, x64.grad) < 1e-4
    expected = dict(real.named_parameters())
    assert {"coefficients", "offsets", "predictors", "initial_velocity.weight"} <= expected.keys()
    for name, parameter in stack.named_parameters():
        assert _relative(parameter.grad, expected[name].grad) < 1e-4, name


@pytest.mark.parametrize("backward", ["reversible", "stored"])
@pytest.mark.parametrize(
    ("shape", "per_channel", "channel_dim"),
    [((), False, 0), ((4,), True, 0), ((1, 4), True, 1), ((1, 4, 1, 1), True, 1)],
    ids=["no dimension", "C", "1 x C", "1 x C x 1 x 1"],
)
def test_a_rule_as_large_as_the_input_gets_the_gradients_of_the_real_rule(
    backward, shape, per_channel, channel_dim
):
    # The gradient of an offset is then the gradient that flows on, with nothing to sum over.
    torch.manual_seed(0)
    numbers = (6, 4) if per_channel else (6,)
    stack = MomentumStack(
        [Wave() for _ in range(6)],
        gamma=0.8,
        coefficients=torch.rand(numbers),
        offsets=torch.randn(numbers) * 0.1,
        predictors=torch.randn(numbers) * 0.1,
        trainable_rule=True,
        channel_dim=channel_dim,
        backward=backward,
    )
    real = copy.deepcopy(stack).double()
    x = torch.randn(shape, requires_grad=True)
    stack(x).square().sum().backward()
    x64 = x.detach().double().requires_grad_()
    real.forward_floats(x64)[0].square().sum().backward()
    assert _relative(x.grad, x64.grad) < 1e-4
    for name, parameter in real.named_parameters():
        assert _relative(stack.get_parameter(name).grad, parameter.grad) < 1e-4, name


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("rule", ["scalar", "channel"])
def test_reversible_equals_stored_with_a_trainable_rule_and_initial_velocity(
    make_blocks, make_input, assert_same_bits, gamma, rule
):
    shape = (12,) if rule == "scalar" else (12, 3)
    stack = MomentumStack(
        make_blocks("conv", 12),
        gamma=gamma,
        coefficients=torch.rand(shape),
        offsets=torch.randn(shape) * 0.1,
        predictors=torch.randn(shape) * 0.1,
        trainable_rule=True,
        initial_velocity=nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.3)),
    )
    found = assert_same_bits(stack, make_input("conv"))
    assert found["gradient of coefficients"].shape == shape
    assert found["gradient of initial_velocity.0.weight"].abs().sum() > 0


@pytest.mark.parametrize("backward", ["reversible", "stored"])
def test_parameter_gradients_arrive_before_the_previous_block_runs_again(make_blocks, backward):
    blocks = make_blocks("mlp", 5)
    tied = blocks[3]
    blocks[1] = tied
    stack = MomentumStack(blocks, gamma=0.9, backward=backward)
    events = []
    for number, block in enumerate(blocks):
        if block is tied and number == 3:
            continue
        block.register_forward_hook(
            lambda *_, n=number: events.append(f"run {n}") if started else None
        )
        for parameter in block.parameters():
            parameter.register_post_accumulate_grad_hook(
                lambda p, n=number: events.append(f"grad {n}")
            )
    started = False
    y = stack(torch.randn(2, 4))
    started = True
    y.sum().backward()
    order = [event for at, event in enumerate(events) if at == 0 or events[at - 1] != event]
    if backward == "stored":
        assert order == ["grad 4", "grad 2", "grad 1", "grad 0"]
    else:
        # Block 1 is block 3 as well: its gradient waits for its last use.
        expected = ["run 4", "grad 4", "run 1", "run 2", "grad 2", "run 1", "grad 1", "run 0"]
        assert order == [*expected, "grad 0"]


def test_gradients_freed_by_the_caller_do_not_pile_up(make_blocks):
    blocks = [nn.Linear(64, 64) for _ in range(20)]
    stack = MomentumStack(blocks, skip=False)
    alive = []
    most = 0

    def free(parameter):
        nonlocal most
        alive.append(weakref.ref(parameter.grad))
        parameter.grad = None
        most = max(most, sum(ref() is not None for ref in alive))

    for parameter in stack.parameters():
        parameter.register_post_accumulate_grad_hook(free)
    stack(torch.randn(2, 64)).sum().backward()
    assert len(alive) == 40
    assert most <= 2


def test_hooks_on_parameters_run_once(make_blocks, make_input, assert_same_bits):
    stack = MomentumStack(make_blocks("mlp", 3), gamma=0.5)
    plain = assert_same_bits(copy.deepcopy(stack), make_input("mlp"))
    weight = stack.blocks[1].first.weight
    calls = []

    def double(gradient):
        calls.append(1)
        return gradient * 2

    weight.register_hook(double)
    x = make_input("mlp").requires_grad_()
    stack(x).square().sum().backward()
    assert len(calls) == 1
    assert torch.equal(weight.grad, 2 * plain["gradient of blocks.1.first.weight"])


def test_nothing_outlives_the_backward_pass(make_blocks, make_input):
    stack = MomentumStack(make_blocks("conv", 4))
    y = stack(make_input("conv").requires_grad_())
    state = weakref.ref(y.grad_fn.tape)
    y.sum().backward()
    del y
    gc.collect()
    assert state() is None


def test_float_results_differ_from_training_by_no_more_than_the_noise(make_blocks, make_input):
    stack = MomentumStack(make_blocks("conv", 20), gamma=0.7).eval()
    x = make_input("conv")
    trained = stack(x.clone().requires_grad_())
    with torch.no_grad():
        evaluated = stack(x)
    assert evaluated.grad_fn is None
    assert (trained - evaluated).abs().max() < 50 * stack.expected_noise
