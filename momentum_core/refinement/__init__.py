"""Trains a momentum model until it answers as the original does.

training_images batches     what trains and what judges; the images of each step
synthetic                   images for when there are none
recipe                      what `auto` stands for
evaluate goal               answers to images; how far a model is from its goal
start batch_norm            calibration and re-estimated statistics, where they help
gamma_schedule              gamma on its way to its own value
objective step training     the loss, one step, the loop
checkpoints resumption      so that a training that was killed goes on
processes                   several of them train one model
refine                      what people call
finetune head               the same two networks for the user's own classes
"""

from momentum_core.refinement.checkpoints import Checkpoints
from momentum_core.refinement.evaluate import Evaluation, evaluate, to_input
from momentum_core.refinement.finetune import Finetuning, FinetuningResult, finetune
from momentum_core.refinement.refine import Refinement, RefinementResult, refine
from momentum_core.refinement.synthetic import synthetic_images
from momentum_core.refinement.training import StepProgress
from momentum_core.refinement.training_images import SplitRecord, TrainingImages, split_images

__all__ = [
    "Checkpoints",
    "Evaluation",
    "Finetuning",
    "FinetuningResult",
    "Refinement",
    "RefinementResult",
    "SplitRecord",
    "StepProgress",
    "TrainingImages",
    "evaluate",
    "finetune",
    "refine",
    "split_images",
    "synthetic_images",
    "to_input",
]
