import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from momentum_core.errors import ConfigError, ReversibilityError
from momentum_core.reversible import MomentumStack


def _stack(make_blocks, **options):
    return MomentumStack(make_blocks("mlp", 3), name="layer2", **options)


@pytest.mark.parametrize("backward", ["reversible", "stored"])
def test_a_second_backward_pass_is_refused(make_blocks, backward):
    y = _stack(make_blocks, backward=backward)(torch.randn(2, 4)).sum()
    y.backward(retain_graph=True)
    with pytest.raises(ReversibilityError, match="layer2: its state was rewound") as caught:
        y.backward()
    assert caught.value.code == "second_backward"


@pytest.mark.parametrize("backward", ["reversible", "stored"])
def test_a_gradient_of_the_gradient_is_refused(make_blocks, backward):
    x = torch.randn(2, 4, requires_grad=True)
    y = _stack(make_blocks, backward=backward)(x).sum()
    with pytest.raises(ReversibilityError, match="layer2: create_graph=True") as caught:
        torch.autograd.grad(y, x, create_graph=True)
    assert caught.value.code == "double_backward"


class Captures(nn.Module):
    def __init__(self, outside):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.outside = [outside]

    def forward(self, x):
        return self.linear(x) * self.outside[0]


@pytest.mark.parametrize("kind", ["leaf", "inner node", "parameter of another module"])
def test_a_captured_tensor_that_needs_a_gradient_is_refused(kind):
    outside = {
        "leaf": torch.ones(4, requires_grad=True),
        "inner node": torch.ones(4, requires_grad=True) * 2,
        "parameter of another module": nn.Linear(4, 4).bias,
    }[kind]
    stack = MomentumStack([nn.Linear(4, 4), Captures(outside)], skip=False, name="layer2")
    with pytest.raises(ReversibilityError, match="layer2, block 1: Captures uses") as caught:
        stack(torch.randn(2, 4))
    assert caught.value.code == "captured_tensor"
    with torch.no_grad():
        stack(torch.randn(2, 4))


def test_a_captured_tensor_that_needs_none_is_welcome(assert_same_bits):
    stack = MomentumStack([Captures(torch.rand(4)) for _ in range(3)], skip=False)
    assert_same_bits(stack, torch.randn(2, 4))


class Returns(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.result = result

    def forward(self, x):
        return self.result(self.linear(x))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda y: (y, y), "returned a tuple"),
        (lambda y: y[:, :2], r"returned shape \(2, 2\) for an input of shape \(2, 4\)"),
        (lambda y: y[:1], r"returned shape \(1, 4\)"),
        (lambda y: y.argmax(-1), "returned a torch.int64"),
        (lambda _: None, "returned a NoneType"),
    ],
)
def test_an_output_that_is_no_tensor_of_the_input_s_shape_is_refused(result, message):
    stack = MomentumStack([Returns(result)], skip=False, name="layer2")
    with pytest.raises(ReversibilityError, match=f"layer2, block 0: {message}") as caught:
        stack(torch.randn(2, 4))
    assert caught.value.code == "block_output"


@pytest.mark.parametrize("x", [torch.ones(2, 4, dtype=torch.int64), "x", None])
def test_an_input_that_is_no_float_tensor_is_refused(make_blocks, x):
    with pytest.raises(ConfigError, match="layer2: the input must be a float tensor"):
        _stack(make_blocks)(x)


def test_channels_that_do_not_match_the_rule_are_refused(make_blocks):
    stack = _stack(make_blocks, coefficients=torch.ones(3, 5))
    with pytest.raises(ConfigError, match="5 channels"):
        stack(torch.randn(2, 4, requires_grad=True))


@pytest.mark.parametrize("backward", ["reversible", "stored"])
def test_freezing_between_the_passes_is_refused(make_blocks, backward):
    stack = _stack(make_blocks, backward=backward)
    y = stack(torch.randn(2, 4))
    stack.blocks[1].first.weight.requires_grad_(False)
    with pytest.raises(ReversibilityError, match="layer2, block 1: requires_grad") as caught:
        y.sum().backward()
    assert caught.value.code == "changed_before_backward"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_forward_mode_differentiation_is_refused_where_it_would_be_lost(make_blocks):
    stack = _stack(make_blocks)
    x, tangent = torch.randn(2, 4), torch.ones(2, 4)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        with pytest.raises(ReversibilityError, match="layer2: forward-mode") as caught:
            stack(dual)
        assert caught.value.code == "forward_mode"
        # Frozen as a whole, a stack runs in floats and passes the tangent on.
        stack.requires_grad_(False)
        found = forward_ad.unpack_dual(stack(dual)).tangent
        expected = forward_ad.unpack_dual(stack.forward_floats(dual)[0]).tangent
    assert torch.equal(found, expected)
    assert found.abs().sum() > 0
