"""Re-estimation of normalisation statistics: those of the original are of other activations.

At gamma near 1 the momentum model's activations are far enough from the original's for it to help;
at small gamma a few hundred images' statistics are worse than the original's. So it is tried, and
kept where it is measured to help.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from momentum_core.calibration.watch import evaluation_mode
from momentum_core.config import Preprocessing
from momentum_core.refinement.evaluate import to_input

BATCH = 128


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the model's batch normalisations that keep statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]


@torch.no_grad()
def re_estimate(model: nn.Module, images: NDArray[np.uint8], preprocessing: Preprocessing) -> None:
    """Put the statistics of these images into every batch normalisation, in place.

    Mean and variance are the averages of those of the batches. All else is in evaluation mode.

    Args:
        model: it needs at least one batch normalisation.
        images: shape (N, H, W, C), N at least 2.
        preprocessing: mean and standard deviation for each channel.
    """
    norms = batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    with evaluation_mode(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # an average over all batches
            norm.train()
        for piece in np.array_split(images, max(1, len(images) // BATCH)):
            model(to_input(piece, preprocessing, device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
