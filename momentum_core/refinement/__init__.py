"""Train a momentum model briefly towards the original, and measure its accuracy."""

from momentum_core.refinement.evaluate import Evaluation, evaluate, to_input
from momentum_core.refinement.refine import RefinementResult, refine

__all__ = ["Evaluation", "RefinementResult", "evaluate", "refine", "to_input"]
