"""From a residual model to a momentum model: decide into a plan, then act on a copy.

provenance trace    one forward pass, followed operator by operator and call by call
runs segments       what becomes a run; what else is worth computing twice
rule plan plan_json the decision, also as a file holds it
memory_plan planner what each part keeps for the backward pass, by predicted memory
stand_ins convert   the converted copy, and the way back
weights             its weights under their original names
architecture        the plan of an architecture that can be named
"""

from momentum_core.conversion.architecture import plan_architecture
from momentum_core.conversion.convert import convert, restore
from momentum_core.conversion.plan import (
    ConversionPlan,
    PlannedRun,
    Unconverted,
    plan_conversion,
    plan_of,
)
from momentum_core.conversion.plan_json import plan_from_json
from momentum_core.conversion.rule import RunRule
from momentum_core.conversion.stand_ins import CalledBlock, CallPattern, ConvertedRun, PassThrough
from momentum_core.conversion.trace import ExampleInput
from momentum_core.conversion.weights import load_original_state_dict, original_state_dict

__all__ = [
    "CallPattern",
    "CalledBlock",
    "ConversionPlan",
    "ConvertedRun",
    "ExampleInput",
    "PassThrough",
    "PlannedRun",
    "RunRule",
    "Unconverted",
    "convert",
    "load_original_state_dict",
    "original_state_dict",
    "plan_architecture",
    "plan_conversion",
    "plan_from_json",
    "plan_of",
    "restore",
]
