"""What a training step holds in memory, counted tensor by tensor."""

from __future__ import annotations

from momentum_core.memory.prediction import StepPrediction, predict_training_step
from momentum_core.memory.step import (
    StepMeasurement,
    measure_side_by_side,
    measure_training_step,
)
from momentum_core.memory.tracker import Category, MemoryTracker

__all__ = [
    "Category",
    "MemoryTracker",
    "StepMeasurement",
    "StepPrediction",
    "measure_side_by_side",
    "measure_training_step",
    "predict_training_step",
]
