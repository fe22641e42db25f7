"""What the authors' library is tested for holds here, and the transformer tests that fail there.

Written from the description of those tests, against this core's own API. Their flag for "keep
activations" is `backward="stored"` here; their `init_speed` is `initial_velocity`.
"""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn
from torchvision import models

from momentum_core import ConversionConfig, convert
from momentum_core.reversible import MomentumStack
from momentum_core.reversible.remainder import RemainderStore
from momentum_core.reversible.store_plan import plan_store

BACKWARDS = ("reversible", "stored")

# Fine enough for tolerances that were meant for floats on both sides.
RANGE = 32.0


class WithMemory(nn.Module):
    """A residual function of a position and any number of memories that broadcast against it."""

    def __init__(self, width, num_memories):
        super().__init__()
        self.position = nn.Linear(width, width)
        self.memories = nn.ModuleList(nn.Linear(width, width) for _ in range(num_memories))

    def forward(self, x, *memories):
        read = zip(self.memories, memories, strict=True)
        return torch.tanh(self.position(x) + sum(linear(memory) for linear, memory in read))


def _mlp(width, hidden):
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, width))


def _step(model, *inputs, **masks):
    """Output and gradients of one step, by name."""
    torch.manual_seed(1)
    leaves = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
    y = model(*leaves, **masks)
    y.square().sum().backward()
    return (
        {"output": y.detach()}
        | {f"gradient of input {number}": leaf.grad for number, leaf in enumerate(leaves)}
        | {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    )


def _in_mode(model, mode):
    """Return a copy whose stacks run in `mode`; `floats` is plain autograd of the same rule."""
    twin = copy.deepcopy(model)
    for stack in twin.modules():
        if isinstance(stack, MomentumStack):
            if mode == "floats":
                stack.forward = lambda *args, _of=stack, **kwargs: _of.forward_floats(
                    *args, **kwargs
                )[0]
            else:
                stack.backward_mode = mode
    return twin


def _assert_modes_agree(model, step, **tolerance):
    """Assert that reversing gives the bits of stored graphs and, within tolerance, autograd's."""
    found, stored, floats = (step(_in_mode(model, mode)) for mode in (*BACKWARDS, "floats"))
    assert found.keys() == stored.keys() == floats.keys()
    for name, value in found.items():
        if value is None:
            assert stored[name] is None, name
            assert floats[name] is None, name
        else:
            assert torch.equal(value, stored[name]), name
            torch.testing.assert_close(
                value, floats[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
            )
    return found


def test_a_value_comes_back_exactly_from_a_multiplication_and_an_addition():
    scale = 2.0**26
    values = torch.randn(10, generator=torch.Generator().manual_seed(0))
    exact = (values * scale).round().to(torch.int32)
    state = exact.clone()
    store = RemainderStore(plan_store(Fraction(1, 3), 1), state)
    everything = (slice(None),)

    def read():
        return state.double() / scale

    torch.testing.assert_close(read(), values.double(), rtol=0, atol=1e-7)
    push = store.begin_push()
    store.push(state, everything, push)
    store.end_push()
    torch.testing.assert_close(read(), values.double() / 3, rtol=0, atol=1e-3)
    state += int(2 * scale)
    torch.testing.assert_close(read(), values.double() / 3 + 2, rtol=0, atol=1e-3)
    state -= int(2 * scale)
    push = store.begin_pop()
    store.pop(state, everything, push)
    store.end_pop(push)
    torch.testing.assert_close(read(), values.double(), rtol=0, atol=1e-3)
    assert torch.equal(state, exact)


@pytest.mark.parametrize("backward", BACKWARDS)
def test_the_output_has_the_shape_of_the_input_and_sizes_that_do_not_match_are_an_error(backward):
    fits = MomentumStack([_mlp(3, 5)], skip=False, backward=backward)
    x = torch.rand(4, 3)
    assert fits(x).shape == x.shape
    block = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(4, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        MomentumStack([block], skip=False, backward=backward)(x)


@pytest.mark.parametrize("learned", [True, False])
def test_eight_blocks_applied_twice_have_the_outputs_and_gradients_of_autograd(learned):
    torch.manual_seed(0)
    stack = MomentumStack(
        [_mlp(4, 8) for _ in range(8)],
        gamma=0.99,
        skip=False,
        initial_velocity=nn.Sequential(nn.Linear(4, 4), nn.Tanh()) if learned else None,
        activation_range=RANGE,
    )
    x = torch.randn(3, 4, requires_grad=True)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = stack

        def forward(self, x):
            return self.net(self.net(x))

    found = _assert_modes_agree(Twice(), lambda model: _step(model, x), atol=1e-5, rtol=1e-3)
    assert all(value.any() for value in found.values())
    assert ("gradient of net.initial_velocity.0.weight" in found) == learned


@pytest.mark.parametrize("learned", [True, False])
def test_a_block_with_a_second_argument_has_the_gradients_of_autograd(learned):
    torch.manual_seed(0)
    stack = MomentumStack(
        [WithMemory(4, 1)],
        gamma=0.9,
        skip=False,
        initial_velocity=WithMemory(4, 1) if learned else None,
        activation_range=RANGE,
    )
    x = torch.randn(3, 4, requires_grad=True)
    memory = torch.randn(3, 4)
    found = _assert_modes_agree(stack, lambda model: _step(model, x, memory), atol=1e-4, rtol=1e-3)
    assert found["gradient of input 1"] is None
    assert all(value.any() for name, value in found.items() if name != "gradient of input 1")


def test_a_broadcast_argument_gets_its_gradient():
    torch.manual_seed(0)
    blocks = [WithMemory(2, 1) for _ in range(3)]
    stack = MomentumStack(blocks, gamma=0.9, skip=False, activation_range=RANGE)
    x = torch.randn(5, 2, requires_grad=True)
    memory = torch.randn(1, 2, requires_grad=True)
    found = _assert_modes_agree(stack, lambda model: _step(model, x, memory), atol=1e-4, rtol=1e-3)
    assert found["gradient of input 1"].shape == (1, 2)
    assert found["gradient of input 1"].all()


def test_three_inputs_have_the_gradients_of_autograd_at_the_default_tolerance():
    torch.manual_seed(0)
    blocks = [WithMemory(2, 2) for _ in range(5)]
    stack = MomentumStack(blocks, gamma=0.9, skip=False, activation_range=RANGE)
    x = torch.randn(5, 2, requires_grad=True)
    memory = torch.randn(1, 2, requires_grad=True)
    fixed = torch.randn(5, 2)
    found = _assert_modes_agree(
        stack, lambda model: _step(model, x, memory, fixed), rtol=1e-5, atol=1e-8
    )
    assert found["gradient of input 0"].all()
    assert found["gradient of input 1"].all()
    assert found["gradient of input 2"] is None


@pytest.mark.parametrize("backward", BACKWARDS)
def test_a_converted_resnet18_trains(backward):
    torch.manual_seed(0)
    network = models.resnet18(num_classes=5)
    images = torch.randn(2, 3, 32, 32)
    config = ConversionConfig(gamma=0.9, plan_memory=False)
    momentum = convert(network, images, config).train()
    stacks = [module for module in momentum.modules() if isinstance(module, MomentumStack)]
    assert len(stacks) > 0
    for stack in stacks:
        stack.backward_mode = backward
    logits = momentum(images)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    gradients = [parameter.grad for parameter in momentum.parameters()]
    assert len(gradients) == len(list(network.parameters()))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


# The transformer tests. `nn.TransformerEncoder` reads attributes of its first layer, so a stack
# cannot stand in for its layers; it takes the place of the encoder, under the layers' own names.


class Encoder(nn.Module):
    def __init__(self, layers, norm, **options):
        super().__init__()
        self.stack = MomentumStack(layers, name="encoder", **options)
        self.norm = norm

    def forward(self, src, mask=None, src_key_padding_mask=None, is_causal=None):
        y = self.stack(
            src,
            src_mask=mask,
            src_key_padding_mask=src_key_padding_mask,
            is_causal=bool(is_causal),
        )
        return self.norm(y)


class Decoder(nn.Module):
    def __init__(self, layers, norm, **options):
        super().__init__()
        self.stack = MomentumStack(layers, name="decoder", **options)
        self.norm = norm

    def forward(self, tgt, memory, tgt_is_causal=None, **masks):
        y = self.stack(tgt, memory, tgt_is_causal=bool(tgt_is_causal), **masks)
        return self.norm(y)


def _transformer():
    """6 + 6 layers, converted."""
    torch.manual_seed(0)
    sizes = {"d_model": 8, "nhead": 2, "batch_first": True}
    plain = nn.Transformer(dim_feedforward=16, **sizes)
    options = {"gamma": 0.99, "activation_range": RANGE}
    return nn.Transformer(
        custom_encoder=Encoder(plain.encoder.layers, plain.encoder.norm, **options),
        custom_decoder=Decoder(plain.decoder.layers, plain.decoder.norm, **options),
        **sizes,
    )


def _sentences():
    generator = torch.Generator().manual_seed(2)
    source = torch.randn(2, 5, 8, generator=generator, requires_grad=True)
    target = torch.randn(2, 4, 8, generator=generator, requires_grad=True)
    return source, target


def _causal(length):
    """True where a query may not look: at what follows it."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def _padding():
    """The last two positions of the second source sentence are none."""
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    return padding


TRANSFORMER_MASKS = {
    "tgt_mask": _causal(4),
    "src_key_padding_mask": _padding(),
    "memory_key_padding_mask": _padding(),
}


@pytest.mark.parametrize("masks", [TRANSFORMER_MASKS, {}], ids=["masked", "not masked"])
def test_a_transformer_trains_and_reversing_changes_no_bit(masks):
    model = _transformer().train()
    found, stored = (_step(_in_mode(model, mode), *_sentences(), **masks) for mode in BACKWARDS)
    assert found["output"].shape == (2, 4, 8)
    assert found.keys() == stored.keys()
    for name, value in stored.items():
        assert value.isfinite().all(), name
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("masks", [TRANSFORMER_MASKS, {}], ids=["masked", "not masked"])
def test_a_transformer_has_the_outputs_and_gradients_of_autograd(masks):
    _assert_modes_agree(
        _transformer().eval(),
        lambda model: _step(model, *_sentences(), **masks),
        atol=1e-4,
        rtol=1e-3,
    )


def test_an_encoder_with_mask_and_padding_has_the_gradients_of_autograd():
    source, _ = _sentences()
    masks = {"mask": _causal(5), "src_key_padding_mask": _padding(), "is_causal": True}
    _assert_modes_agree(
        _transformer().encoder.eval(),
        lambda model: _step(model, source, **masks),
        atol=1e-4,
        rtol=1e-3,
    )


def test_a_decoder_gives_its_memory_the_gradient_of_autograd():
    memory, target = _sentences()
    masks = {"tgt_mask": _causal(4), "memory_key_padding_mask": _padding()}
    found = _assert_modes_agree(
        _transformer().decoder.eval(),
        lambda model: _step(model, target, memory, **masks),
        atol=1e-4,
        rtol=1e-3,
    )
    gradient = found["gradient of input 1"]
    assert not gradient[_padding()].any()
    assert gradient[~_padding()].all()


@pytest.mark.parametrize("backward", BACKWARDS)
def test_masks_reach_every_layer_so_no_output_depends_on_what_is_hidden(backward):
    model = _in_mode(_transformer().eval(), backward)
    source, target = _sentences()
    y = model(source, target, **TRANSFORMER_MASKS)
    y[:, 1].square().sum().backward()
    assert target.grad[:, :2].all()
    assert not target.grad[:, 2:].any()
    assert not source.grad[_padding()].any()
    assert source.grad[~_padding()].all()

    other_source, other_target = _sentences()
    with torch.no_grad():
        other_target[:, 2:] += 1
        other_source[_padding()] += 1
    other = model(other_source, other_target, **TRANSFORMER_MASKS)
    assert torch.equal(other[:, :2], y[:, :2])
    assert not torch.equal(other[:, 2:], y[:, 2:])
    assert not torch.equal(model(other_source, other_target)[:, :2], y[:, :2])
