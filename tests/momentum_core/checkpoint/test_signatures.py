"""The table of names and shapes equals what the architectures themselves say."""

from __future__ import annotations

import pytest
import torch

from momentum_core.architectures import build
from momentum_core.checkpoint.signatures import ARCHITECTURES, head, is_buffer, shapes
from momentum_core.errors import ArchitectureError


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_and_shapes_are_those_of_the_module(name):
    with torch.device("meta"):
        network = build(name, num_classes=7)
    expected = [(key, tuple(tensor.shape)) for key, tensor in network.state_dict().items()]
    assert list(shapes(name, 7).items()) == expected
    assert shapes(name, 7)[head(name)][0] == 7


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_counts_as_a_buffer_is_what_the_module_calls_one(name):
    with torch.device("meta"):
        network = build(name, num_classes=2)
    buffers = {key for key, _ in network.named_buffers()}
    assert {key for key in shapes(name, 2) if is_buffer(key)} == buffers


def test_no_two_architectures_have_the_same_weights():
    assert len({tuple(shapes(name, 10).items()) for name in ARCHITECTURES}) == len(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet5", "did you mean resnet50"), ("cifar_resnet", "cifar_resnet"), ("\x00", "known are")],
)
def test_an_unknown_name_is_refused_with_a_hint(name, hint):
    with pytest.raises(ArchitectureError, match=hint) as caught:
        shapes(name, 10)
    assert caught.value.code == "unknown_architecture"
