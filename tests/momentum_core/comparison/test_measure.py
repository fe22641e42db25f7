"""The methods against each other and against bytes counted by hand."""

from __future__ import annotations

import copy
import importlib.metadata

import pytest
import torch
from torch import nn

from momentum_core import ConversionConfig, plan_conversion
from momentum_core.architectures import build
from momentum_core.comparison import METHODS, checkpointed, measure_memory
from momentum_core.errors import ConfigError
from momentum_core.memory import Category
from momentum_core.memory.count import thin_out

STATE = 4 * 8 * 6
"""Bytes of one state of the small network: 8 x 6 floats."""
LOSS = 4 * (8 * 4 + 1 + 1)
"""Held by the loss: log-softmax of 8 x 4 logits, the loss, its total weight."""


def _gradients(model, images, labels):
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("cut", ["each_block", "sqrt"])
def test_a_checkpointed_network_has_the_originals_gradients_bit_by_bit(cut):
    torch.manual_seed(0)
    model = build("cifar_resnet20", num_classes=4)
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(4, (4,))
    plan = plan_conversion(model, images, ConversionConfig(plan_memory=False))
    expected = list(_gradients(model, images, labels).values())
    again = checkpointed(model, plan, cut)
    assert all(a is b for a, b in zip(again.parameters(), model.parameters(), strict=True))
    found = list(_gradients(again, images, labels).values())
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_each_method_holds_what_a_hand_counts(network, momentum, batch):
    measured = measure_memory(network, momentum, *batch, repeats=1).measured
    # tanh's output, and the block's output, which is the next one's input; the input is known.
    assert measured["original"].activation_bytes == 9 * 2 * STATE + LOSS
    # The outputs of nine blocks, and of three segments of three blocks.
    assert measured["checkpoint_each_block"].activation_bytes == 9 * STATE + LOSS
    assert measured["checkpoint_sqrt"].activation_bytes == 3 * STATE + LOSS
    # Position and velocity of 4 bytes, eight lost bits, a checksum of two int64.
    state = 2 * STATE + 8 * 6
    # The head keeps its input: the run's output, a float copy of the position.
    assert measured["momentum"].activation_bytes == state + STATE + 2 * 8 + LOSS


def test_parts_add_up_to_what_is_held(network, momentum, batch):
    for name, one in measure_memory(network, momentum, *batch, repeats=1).measured.items():
        held = [size for part in one.held_by_part.values() for size in part.values()]
        assert sum(held) == one.activation_bytes, name
    parts = measure_memory(network, momentum, *batch, repeats=1).original.held_by_part
    assert parts["blocks.3"] == {Category.ACTIVATIONS: 2 * STATE}


def test_phases_and_optimizer_are_counted(network, momentum, batch):
    found = measure_memory(network, momentum, *batch, repeats=3, optimizer="adam").original
    forward, backward, update = found.phases
    assert (forward.name, backward.name, update.name) == ("forward", "backward", "optimizer_step")
    assert found.peak_bytes == max(phase.peak_bytes for phase in found.phases)
    assert max(backward.live_bytes) == backward.peak_bytes
    assert forward.live_bytes[-1] == backward.live_bytes[0] == found.activation_bytes
    # Two numbers for each parameter, and for each tensor the count of steps.
    assert found.optimizer_bytes == 2 * found.parameter_bytes + 4 * 20
    # The largest weight's denominator (its root, the quotient beside it), that of the bias before
    # it, and the loss.
    assert update.peak_bytes == 2 * 4 * 6 * 6 + 4 * 6 + 4
    seconds = found.step_seconds
    assert 0 < seconds.minimum <= seconds.median <= seconds.maximum
    assert found.seconds == seconds.median
    assert set(found.phase_seconds) == {"forward", "backward", "optimizer_step"}


def test_measuring_leaves_everything_as_it_was(network, momentum, batch):
    network.eval()
    before = copy.deepcopy(network.state_dict()), copy.deepcopy(momentum.state_dict())
    measure_memory(network, momentum, *batch, repeats=1, optimizer="adam")
    for model, state in zip((network, momentum), before, strict=True):
        assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)
        assert all(parameter.grad is None for parameter in model.parameters())
    assert (network.training, momentum.training) == (False, True)


def test_what_is_not_installed_is_not_measured_and_says_so(network, momentum, batch, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("momentum_core.comparison.methods.version", missing)
    found = measure_memory(network, momentum, *batch, repeats=1)
    assert list(found.measured) == list(METHODS[:-1])
    assert found.not_measured == {"momentumnet": "momentumnet 0.10 is needed, it is not installed"}


@pytest.mark.rival
def test_the_authors_network_is_measured_where_it_is_installed(network, momentum, batch):
    pytest.importorskip("momentumnet")
    found = measure_memory(network, momentum, *batch, repeats=1)
    assert list(found.measured) == list(METHODS)
    # 20 bytes for each number of the state: position, velocity and store are 8-byte integers.
    assert found.measured["momentumnet"].activation_bytes > found.momentum.activation_bytes


def test_a_block_with_further_arguments_is_checkpointed_with_them(batch):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x, scale):
            return (x + scale * torch.tanh(self.linear(x)), scale)

    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Scaled() for _ in range(4))
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            scale = torch.full((1,), 0.5)
            for layer in self.layers:
                x, scale = layer(x, scale)
            return self.head(x)

    torch.manual_seed(0)
    model = Layers()
    images, labels = batch
    plan = plan_conversion(model, images, ConversionConfig(plan_memory=False))
    expected = list(_gradients(model, images, labels).values())
    for cut in ("each_block", "sqrt"):
        found = list(_gradients(checkpointed(model, plan, cut), images, labels).values())
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_wrong_words_are_refused(network, momentum, batch):
    with pytest.raises(ConfigError, match="each_block, sqrt"):
        checkpointed(network, momentum.plan, "everything")
    with pytest.raises(ConfigError, match="sgd_momentum"):
        measure_memory(network, momentum, *batch, optimizer="lion")


def test_a_thinned_series_keeps_every_height():
    levels = [0] * 1000
    levels[777], levels[12] = 90, 7
    assert thin_out(levels, 10) == (7, 0, 0, 0, 0, 0, 0, 90, 0, 0)
    assert thin_out([3, 1, 2], 10) == (3, 1, 2)
    assert len(thin_out(range(1001), 120)) == 120
