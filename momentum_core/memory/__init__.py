"""What a training step holds in memory, counted tensor by tensor."""

from __future__ import annotations

from momentum_core.memory.count import PhaseCount, StepCount
from momentum_core.memory.cuda import CudaPeaks
from momentum_core.memory.prediction import predict_training_step
from momentum_core.memory.step import (
    Seconds,
    StepMeasurement,
    measure_side_by_side,
    measure_training_step,
)
from momentum_core.memory.tracker import Category, MemoryTracker

__all__ = [
    "Category",
    "CudaPeaks",
    "MemoryTracker",
    "PhaseCount",
    "Seconds",
    "StepCount",
    "StepMeasurement",
    "measure_side_by_side",
    "measure_training_step",
    "predict_training_step",
]
