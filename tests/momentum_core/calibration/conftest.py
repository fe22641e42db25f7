"""A small trained network: the entry for digits that the project ships, with its images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from momentum_core.architectures import build
from momentum_core.calibration import CalibrationResult, calibrate
from momentum_core.checkpoint import read_dataset
from momentum_core.config import CalibrationConfig, ConversionConfig, RuleForm
from momentum_core.conversion import ConversionPlan, plan_architecture
from momentum_core.refinement import to_input
from worker.contract.zoo import find_zoo_entry
from worker.zoo import SHIPPED_FOLDER, shipped_dataset

NAME = "digits_resnet26"


@dataclass(frozen=True)
class Digits:
    network: nn.Module
    batches: list[Tensor]
    others: Tensor
    """Images that calibration does not see."""

    def plan(self, config: ConversionConfig) -> ConversionPlan:
        if config.strategies:
            return plan_architecture(NAME, num_classes=10, config=config)
        return _plan().with_config(config)

    def calibrated(self, gamma: float, form: RuleForm = "predictor") -> CalibrationResult:
        config = CalibrationConfig(form=form, max_steps=8)
        return calibrate(
            self.plan(ConversionConfig(gamma=gamma)), self.network, self.batches, config
        )


@cache
def _plan() -> ConversionPlan:
    """Planning memory takes longer than a fit."""
    return plan_architecture(NAME, num_classes=10, config=ConversionConfig(plan_memory=False))


@pytest.fixture(scope="session")
def digits() -> Digits:
    entry = find_zoo_entry(NAME)
    network = build(NAME, num_classes=10).eval()
    network.load_state_dict(load_file(SHIPPED_FOLDER / entry.file_name))
    path = shipped_dataset(entry)
    assert path is not None
    dataset = read_dataset(path)
    images = to_input(dataset.x_train[:512], entry.preprocessing)
    others = to_input(dataset.x_test[:300], entry.preprocessing)
    return Digits(network, list(images.split(64)), others)


@pytest.fixture(scope="session")
def at_nine_tenths(digits: Digits) -> CalibrationResult:
    return digits.calibrated(0.9)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal_states(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
