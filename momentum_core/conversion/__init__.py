"""From a residual model to a momentum model: decide into a plan, then act on a copy.

blocks      what counts as a residual block, and which modules form a stem
plan        the runs, what is recomputed, what stays and why
convert     the converted copy
weights     its weights under their original names
"""

from momentum_core.conversion.convert import convert
from momentum_core.conversion.plan import (
    ConversionPlan,
    PlannedRun,
    Unconverted,
    plan_conversion,
    plan_of,
)
from momentum_core.conversion.weights import load_original_state_dict, original_state_dict

__all__ = [
    "ConversionPlan",
    "PlannedRun",
    "Unconverted",
    "convert",
    "load_original_state_dict",
    "original_state_dict",
    "plan_conversion",
    "plan_of",
]
