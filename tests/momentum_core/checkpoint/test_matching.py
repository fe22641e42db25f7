from __future__ import annotations

import pytest

from momentum_core.checkpoint import ARCHITECTURES, find_architecture
from momentum_core.checkpoint.matching import missing_counters
from momentum_core.checkpoint.signatures import shapes
from momentum_core.errors import ArchitectureError


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_found_from_its_weights(name):
    match = find_architecture(shapes(name, 37))
    assert (match.name, match.num_classes, match.found) == (name, 37, True)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_named_architecture_that_fits_counts_as_named(name):
    match = find_architecture(shapes(name, 3), named=name)
    assert (match.name, match.num_classes, match.found) == (name, 3, False)


def test_weights_without_batch_counters_fit_and_the_missing_ones_are_listed():
    whole = shapes("resnet18", 10)
    old = {key: shape for key, shape in whole.items() if "num_batches_tracked" not in key}
    match = find_architecture(old)
    assert match.name == "resnet18"
    assert set(missing_counters(whole, old)) == set(whole) - set(old)
    assert missing_counters(whole, whole) == ()


def test_a_wrong_name_is_refused_and_the_right_one_is_told():
    with pytest.raises(ArchitectureError) as caught:
        find_architecture(shapes("resnet34", 10), named="resnet18")
    message = str(caught.value)
    assert caught.value.code == "architecture_mismatch"
    assert "do not fit resnet18" in message
    assert "unexpected: layer1.2.conv1.weight" in message
    assert "the weights fit resnet34" in message


def test_a_wrong_width_names_the_tensor_and_both_shapes():
    with pytest.raises(ArchitectureError) as caught:
        find_architecture(shapes("wide_resnet50_2", 10), named="resnet50")
    assert "layer1.0.conv1.weight is (128, 64, 1, 1), not (64, 64, 1, 1)" in str(caught.value)
    assert "fit wide_resnet50_2" in str(caught.value)


def test_unknown_weights_are_compared_with_the_nearest_architecture():
    weights = shapes("cifar_resnet32", 10)
    del weights["linear.bias"]
    with pytest.raises(
        ArchitectureError, match=r"nearest is cifar_resnet32: missing: linear\.bias"
    ):
        find_architecture(weights)


def test_a_head_of_another_kind_is_a_mismatch_not_a_crash():
    for odd in ((), (0, 64), (10, 64, 1)):
        with pytest.raises(ArchitectureError):
            find_architecture(shapes("cifar_resnet20", 10) | {"linear.weight": odd})


def test_at_most_twenty_names_of_a_kind_are_listed():
    with pytest.raises(ArchitectureError) as caught:
        find_architecture({f"w{index}": (1,) for index in range(500)}, named="resnet18")
    assert "and 480 more" in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_an_unknown_named_architecture_is_refused():
    with pytest.raises(ArchitectureError) as caught:
        find_architecture(shapes("resnet18", 10), named="resnet-18")
    assert caught.value.code == "unknown_architecture"
    assert "did you mean resnet18" in str(caught.value)
