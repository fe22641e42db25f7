"""Ways to train one network side by side: measured, and predicted for any batch and device.

checkpointing methods   the ways, as models with the same weights
measure                 one step of each, in turns
budget depth predict    what each takes of a GPU, for any batch and depth
"""

from __future__ import annotations

from momentum_core.comparison.budget import BUDGETS_GIB, CudaTarget
from momentum_core.comparison.checkpointing import checkpointed
from momentum_core.comparison.measure import MemoryComparison, measure_memory
from momentum_core.comparison.methods import METHODS
from momentum_core.comparison.predict import MemoryPrediction, OwnDevice, predict_memory

__all__ = [
    "BUDGETS_GIB",
    "METHODS",
    "CudaTarget",
    "MemoryComparison",
    "MemoryPrediction",
    "OwnDevice",
    "checkpointed",
    "measure_memory",
    "predict_memory",
]
