"""Ways to train one network side by side: measured, and predicted for any batch and device.

checkpointing methods   the ways, as models with the same weights
measure                 one step of each, in turns
"""

from __future__ import annotations

from momentum_core.comparison.checkpointing import checkpointed
from momentum_core.comparison.measure import MemoryComparison, measure_memory
from momentum_core.comparison.methods import METHODS

__all__ = ["METHODS", "MemoryComparison", "checkpointed", "measure_memory"]
