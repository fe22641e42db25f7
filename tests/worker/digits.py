"""The shipped network and its data, for jobs of a few seconds."""

from __future__ import annotations

from momentum_core.checkpoint import read_dataset
from momentum_core.config import (
    MeasurementConfig,
    RefinementConfig,
)
from worker.contract.request import ConvertRequest, Source
from worker.contract.zoo import find_zoo_entry
from worker.zoo import shipped_dataset

DIGITS = ConvertRequest(
    source=Source(zoo="digits_resnet26"),
    measurement=MeasurementConfig(batch_size=16, repeats=1, rivals=False, predict=False),
    # Calibration alone would meet any goal here: there would be nothing left to train.
    refinement=RefinementConfig(
        max_steps=12, batch_size=64, learning_rate=0.01, calibrate=False, goal=None
    ),
)
DATASET = read_dataset(shipped_dataset(find_zoo_entry("digits_resnet26")))
PREPROCESSING = find_zoo_entry("digits_resnet26").preprocessing
