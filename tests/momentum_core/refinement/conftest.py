"""A small trained network, its images, and its momentum form: the entry that the project ships."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from momentum_core.architectures import build
from momentum_core.checkpoint import Dataset, read_dataset
from momentum_core.config import ConversionConfig, Preprocessing
from momentum_core.conversion import ConversionPlan, convert, plan_architecture
from momentum_core.refinement import TrainingImages
from worker.contract.zoo import find_zoo_entry
from worker.zoo import SHIPPED_FOLDER, shipped_dataset

NAME = "digits_resnet26"


@dataclass(frozen=True)
class Digits:
    network: nn.Module
    dataset: Dataset
    preprocessing: Preprocessing

    def images(self, count: int = 600, *, labelled: bool = True) -> TrainingImages:
        labels = self.dataset.y_train[:count] if labelled else None
        return TrainingImages(self.dataset.x_train[:count], labels)

    def rough(self) -> nn.Module:
        """A conversion that loses most of the accuracy: there is something to learn."""
        return self.momentum(scheme="paper")

    def momentum(self, gamma=0.9, **options) -> nn.Module:
        config = ConversionConfig(gamma=gamma, **options)
        return convert(self.network, plan=_plan().with_config(config))


@cache
def _plan() -> ConversionPlan:
    """Planning takes longer than a test's steps."""
    return plan_architecture(NAME, num_classes=10, config=ConversionConfig(plan_memory=False))


def make_digits() -> Digits:
    entry = find_zoo_entry(NAME)
    network = build(NAME, num_classes=10).eval()
    network.load_state_dict(load_file(SHIPPED_FOLDER / entry.file_name))
    path = shipped_dataset(entry)
    assert path is not None
    return Digits(network, read_dataset(path), entry.preprocessing)


@pytest.fixture(scope="session")
def digits() -> Digits:
    return make_digits()


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal_states(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
