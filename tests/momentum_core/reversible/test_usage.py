"""What people do with modules: freeze, tie, nest, checkpoint, compile, copy, export."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from momentum_core.reversible import MomentumStack


def _gradients(module, x, **calls):
    module.zero_grad()
    torch.manual_seed(4)
    x = x.clone().requires_grad_()
    module(x).square().sum().backward()
    return [x.grad, *(p.grad for p in module.parameters())]


def _assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("frozen", [(0,), (0, 1), (1, 3), (3, 4), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("input_needs_grad", [True, False])
def test_frozen_blocks(make_blocks, make_input, frozen, input_needs_grad):
    results = []
    for backward in ("reversible", "stored"):
        stack = MomentumStack(make_blocks("conv", 5), gamma=0.9, backward=backward)
        for number in frozen:
            stack.blocks[number].requires_grad_(False)
        torch.manual_seed(4)
        x = make_input("conv").requires_grad_(input_needs_grad)
        y = stack(x)
        if y.requires_grad:
            y.square().sum().backward()
        for number, block in enumerate(stack.blocks):
            assert all((p.grad is None) == (number in frozen) for p in block.parameters())
        results.append(
            [y.detach(), x.grad, *(p.grad for p in stack.parameters()), *stack.buffers()]
        )
    _assert_equal(*results)


def test_blocks_before_the_first_trainable_one_are_not_recomputed(make_blocks):
    stack = MomentumStack(make_blocks("mlp", 6), gamma=0.5)
    for block in stack.blocks[:4]:
        block.requires_grad_(False)
    runs = []
    for number, block in enumerate(stack.blocks):
        block.register_forward_hook(lambda *_, n=number: runs.append(n))
    stack(torch.randn(2, 4)).sum().backward()
    assert runs == [0, 1, 2, 3, 4, 5, 5, 4]


def test_partly_frozen_blocks_and_unused_parameters(make_blocks, make_input, assert_same_bits):
    stack = MomentumStack(make_blocks("mlp", 4))
    stack.blocks[0].first.bias.requires_grad_(False)
    stack.blocks[2].second.requires_grad_(False)
    stack.blocks[3].unused = nn.Parameter(torch.ones(3))
    found = assert_same_bits(stack, make_input("mlp"))
    assert found["gradient of blocks.3.unused"] is None
    assert found["gradient of blocks.0.first.bias"] is None
    assert found["gradient of blocks.0.first.weight"].abs().sum() > 0


def test_tied_blocks_sum_their_gradients(make_blocks, make_input, assert_same_bits):
    (block,) = make_blocks("mlp", 1)
    tied = MomentumStack([block] * 5, gamma=0.7)
    untied = MomentumStack([copy.deepcopy(block) for _ in range(5)], gamma=0.7)
    found = assert_same_bits(tied, make_input("mlp"))
    expected = assert_same_bits(untied, make_input("mlp"))
    total = sum(expected[f"gradient of blocks.{n}.first.weight"] for n in range(5))
    torch.testing.assert_close(found["gradient of blocks.0.first.weight"], total)
    assert torch.equal(found["input gradient"], expected["input gradient"])


class View(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.how = how

    def forward(self, x):
        return self.how(x, self.linear)


@pytest.mark.parametrize(
    "how",
    [
        lambda x, f: x,
        lambda x, f: f(x).flip(0),
        lambda x, f: f(x).t().contiguous().t(),
        lambda x, f: f(x)[None].squeeze(0),
        lambda x, f: x.flip(1).view(-1).view_as(x),
        lambda x, f: x.relu_() + f(x),
        lambda x, f: x.add_(f(x.clone())),
        lambda x, f: f(x).mean(0, keepdim=True).expand_as(x),
        lambda x, f: x.detach() + 1.0,
        lambda x, f: f.weight[:3],
    ],
    ids=[
        "identity",
        "flipped",
        "strides",
        "view",
        "view of x",
        "in place",
        "into x",
        "expanded",
        "constant",
        "parameter",
    ],
)
@pytest.mark.parametrize("input_needs_grad", [True, False])
def test_blocks_may_return_views_and_write_into_their_input(
    make_blocks, make_input, how, input_needs_grad
):
    x = torch.randn(3, 4, requires_grad=input_needs_grad)
    blocks = [View(how), *make_blocks("mlp", 1), View(how), *make_blocks("mlp", 1)]
    results = []
    for backward in ("reversible", "stored"):
        stack = MomentumStack(blocks, gamma=0.7, backward=backward)
        stack.zero_grad()
        x.grad = None
        before = x.detach().clone()
        y = stack(x)
        y.square().sum().backward()
        assert torch.equal(x, before)
        with torch.no_grad():
            torch.testing.assert_close(stack(x), y.detach(), rtol=0, atol=1e-3)
        results.append([y.detach(), x.grad, *(p.grad for p in stack.parameters())])
    _assert_equal(*results)
    # Independent of how the core differentiates: the rule in floats, by autograd alone.
    stack.zero_grad()
    x.grad = None
    stack.forward_floats(x * 1.0)[0].square().sum().backward()
    floats = [x.grad, *(p.grad for p in stack.parameters())]
    for ours, theirs in zip(results[0][1:], floats, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backward", ["reversible", "stored"])
def test_a_block_may_return_its_parameter_as_it_is(backward):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.randn(2, 4))

        def forward(self, x):
            return self.value

    torch.manual_seed(0)
    stack = MomentumStack([Constant() for _ in range(3)], gamma=0.5, skip=False, backward=backward)
    real = copy.deepcopy(stack).double()
    x = torch.randn(2, 4)
    stack(x).square().sum().backward()
    real.forward_floats(x.double())[0].square().sum().backward()
    for found, expected in zip(stack.parameters(), real.parameters(), strict=True):
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inner", ["reversible", "stored"])
def test_stacks_may_be_nested(make_blocks, make_input, assert_same_bits, inner):
    nested = [
        MomentumStack(make_blocks("conv", 3), gamma=0.9, backward=inner, name="inner")
        for _ in range(3)
    ]
    stack = MomentumStack([*make_blocks("conv", 1), *nested], gamma=0.5)
    assert_same_bits(stack, make_input("conv"))


def test_hooks_inside_blocks_see_the_gradients(make_blocks, make_input):
    stack = MomentumStack(make_blocks("mlp", 3))
    seen = {}

    def watch(number):
        def hook(module, grad_in, grad_out):
            seen[number] = grad_out[0]

        return hook

    for number, block in enumerate(stack.blocks):
        block.first.register_full_backward_hook(watch(number))
    x = make_input("mlp").requires_grad_()
    stack(x).square().sum().backward()
    for number, block in enumerate(stack.blocks):
        torch.testing.assert_close(seen[number].sum(0), block.first.bias.grad)


def test_several_forward_passes_before_one_backward_pass(make_blocks, make_input):
    results = []
    for backward in ("reversible", "stored"):
        stack = MomentumStack(make_blocks("conv", 4), backward=backward)
        torch.manual_seed(4)
        x = make_input("conv").requires_grad_()
        (stack(x) + stack(stack(x))).square().sum().backward()
        results.append([x.grad, *(p.grad for p in stack.parameters()), *stack.buffers()])
    _assert_equal(*results)


def test_gradients_accumulate_over_steps(make_blocks, make_input):
    stack = MomentumStack(make_blocks("mlp", 4))
    stack(make_input("mlp")).sum().backward()
    once = [p.grad.clone() for p in stack.parameters()]
    stack(make_input("mlp")).sum().backward()
    _assert_equal([p.grad for p in stack.parameters()], [2 * gradient for gradient in once])


def test_gradients_of_some_tensors_only(make_blocks, make_input):
    stack = MomentumStack(make_blocks("mlp", 5), gamma=0.9)
    x = make_input("mlp").requires_grad_()
    stack(x).sum().backward()
    wanted = [stack.blocks[2].first.weight, stack.blocks[4].second.bias]
    found = torch.autograd.grad(stack(x).sum(), wanted)
    _assert_equal(list(found), [p.grad for p in wanted])
    (gradient,) = torch.autograd.grad(stack(x).sum(), x)
    assert torch.equal(gradient, x.grad)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_around_a_stack(make_blocks, make_input, use_reentrant):
    stack = MomentumStack(make_blocks("mlp", 4))
    head = nn.Linear(4, 4)
    expected = _gradients(nn.Sequential(stack, head), make_input("mlp"))

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(stack, head)

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=use_reentrant)

    found = _gradients(Checkpointed(), make_input("mlp"))
    # Reentrant checkpointing runs the first pass without gradients: in floats.
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    if not use_reentrant:
        _assert_equal(found, expected)


def test_a_block_may_checkpoint_or_differentiate_inside(make_input, assert_same_bits):
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            y = checkpoint(lambda x: torch.tanh(self.linear(x)), x, use_reentrant=False)
            with torch.enable_grad():
                energy = self.linear(x).cos().sum()
                (slope,) = torch.autograd.grad(energy, x, create_graph=True)
            return y + slope

    torch.manual_seed(0)
    assert_same_bits(MomentumStack([Energy() for _ in range(4)], skip=False), make_input("mlp"))


def test_deepcopy_and_state_dict_round_trip(make_blocks, make_input):
    stack = MomentumStack(make_blocks("conv", 3), gamma=0.9)
    stack(make_input("conv").requires_grad_())
    twin = copy.deepcopy(stack)
    _assert_equal(_gradients(stack, make_input("conv")), _gradients(twin, make_input("conv")))
    other = MomentumStack(make_blocks("conv", 3)[::-1], gamma=0.9)
    keys = set(other.state_dict())
    assert all(key.startswith("blocks.") for key in keys)
    other.load_state_dict(stack.state_dict())
    _assert_equal(_gradients(stack, make_input("conv")), _gradients(other, make_input("conv")))


def test_learned_coefficients_are_in_the_state_dict(make_blocks):
    trainable = MomentumStack(make_blocks("mlp", 3), trainable_rule=True)
    given = MomentumStack(make_blocks("mlp", 3), offsets=torch.ones(3, 4))
    assert "coefficients" in trainable.state_dict()
    assert trainable.coefficients.requires_grad
    assert "offsets" in given.state_dict()
    assert not given.offsets.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_round_the_rule(make_blocks, make_input, assert_same_bits, dtype):
    torch.manual_seed(0)
    stack = MomentumStack(
        make_blocks("mlp", 3),
        gamma=0.9,
        coefficients=torch.rand(3),
        offsets=torch.full((3, 4), 0.5),
        predictors=torch.rand(3) * 0.1,
        trainable_rule=True,
        initial_velocity=nn.Linear(4, 4),
    )
    before = {name: p.detach().clone() for name, p in stack._parameters.items()}
    stack(make_input("mlp")).sum().backward()
    stack.to(dtype)
    assert {p.dtype for p in [*stack.blocks.parameters(), stack.initial_velocity.weight]} == {dtype}
    for name, value in before.items():
        assert torch.equal(stack.get_parameter(name), value)
        assert stack.get_parameter(name).grad.dtype == torch.float32
    stack.zero_grad()
    found = assert_same_bits(stack, make_input("mlp").to(dtype))
    x64 = make_input("mlp").to(dtype).double().requires_grad_()
    copy.deepcopy(stack).double().forward_floats(x64)[0].square().sum().backward()
    # An ulp of the blocks' own type; the offsets used to overflow in it.
    torch.testing.assert_close(found["input gradient"].double(), x64.grad, rtol=0.05, atol=0.05)
    twin = copy.deepcopy(stack)
    twin.load_state_dict(stack.state_dict())
    assert all(torch.equal(twin.get_parameter(n), value) for n, value in before.items())
    assert copy.deepcopy(stack).double().offsets.dtype == torch.float64


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_needs_no_state(make_blocks, make_input, mode):
    stack = MomentumStack(make_blocks("conv", 3)).eval()
    with mode():
        y = stack(make_input("conv"))
    assert not y.requires_grad
    torch.testing.assert_close(y.clone(), stack.forward_floats(make_input("conv"))[0])


def test_export_takes_the_float_rule(make_blocks, make_input):
    stack = MomentumStack(make_blocks("mlp", 3), initial_velocity=nn.Linear(4, 4)).eval()
    program = torch.export.export(stack, (make_input("mlp"),))
    with torch.no_grad():
        expected = stack(make_input("mlp"))
    torch.testing.assert_close(program.module()(make_input("mlp")), expected)


def test_tracing_takes_the_float_rule(make_blocks, make_input):
    stack = MomentumStack(make_blocks("mlp", 3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(stack, make_input("mlp"))
    with torch.no_grad():
        torch.testing.assert_close(traced(make_input("mlp")), stack(make_input("mlp")))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_around_a_stack(make_blocks, make_input, backend):
    model = nn.Sequential(nn.Linear(4, 4), MomentumStack(make_blocks("mlp", 3)), nn.Linear(4, 4))
    expected = _gradients(model, make_input("mlp"))
    found = _gradients(torch.compile(model, backend=backend), make_input("mlp"))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_blocks(make_blocks, make_input, assert_same_bits, backend):
    blocks = make_blocks("conv", 3)
    for block in blocks:
        block.f[3].p = 0.0
        block.compile(backend=backend)
    stack = MomentumStack(blocks, gamma=0.9)
    x = make_input("conv")
    results = []
    for backward in ("reversible", "stored"):
        stack.backward_mode = backward
        for block in blocks:
            block.f[1].reset_running_stats()
        results.append([*_gradients(stack, x), *(b.clone() for b in stack.buffers())])
    _assert_equal(*results)


def test_a_name_and_the_options_can_be_read(make_blocks):
    stack = MomentumStack(make_blocks("mlp", 2), gamma=0.9, name="layer3")
    assert stack.gamma.numerator == 9
    assert stack.gamma.denominator == 10
    assert "gamma=9/10" in repr(stack)
